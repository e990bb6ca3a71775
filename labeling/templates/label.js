/* The page on which a person labels. It shows an answer's next image at once, but an answer counts only when the server
   has acknowledged it; until then it is kept in the browser's storage, from where even the page of a restarted server
   sends it. Text from the server is only ever put into the page as text. */
'use strict'

const AHEAD = 16 // images asked for at a time
const REFILL = 8 // ask again when so few are left
const PRELOADED = 6 // pictures of the next images that are loaded before they are needed
const KEPT = 40 // pictures in memory
const RENEW = 120000 // milliseconds after which images are asked for again, to keep them from others
const POLL = 2000 // milliseconds between looks at the progress
const RETRY = [300, 1000, 2000, 4000] // milliseconds before sending again
const BATCH = 100 // answers sent at a time

const $ = id => document.getElementById(id)
const token = takeToken()
let project = null
let annotator = ''
let queue = [] // images to decide on; the first one is shown
let view = '' // single, sheet or empty; '' before there is anything
let shown = null // the image that can be seen, and so decided on
let clock = { since: 0, spent: 0 } // milliseconds that the image was visible
let position = 1
let version = null
let works = true // false once the server refuses the token
let undoing = false
let renewed = 0 // when images were last asked for
let asking = null // the request for more images that is under way
let settled = 0 // counts acknowledgements, to know which are newer than a list of images
let answered = new Map() // key -> Infinity while unsent, else the count at its acknowledgement

// The token and the storage

function takeToken() {
  const found = /[#&]token=([\w-]+)/.exec(location.hash)
  if (found) {
    sessionStorage.setItem('token', found[1])
    history.replaceState(null, '', location.pathname) // out of sight, of screenshots and of bookmarks
  }
  return sessionStorage.getItem('token') ?? ''
}

addEventListener('hashchange', () => { // the address of a restarted server, in the same tab
  if (/[#&]token=/.test(location.hash)) location.reload()
})

function stored(key) {
  try { return localStorage.getItem(key) } catch { return null }
}

function storedKeys() {
  try { return Object.keys(localStorage) } catch { return [] }
}

function store(key, text) {
  try {
    if (text === null) localStorage.removeItem(key)
    else localStorage.setItem(key, text)
  } catch { say('This browser stores nothing: keep the page open until all answers are sent.') }
}

// Talking to the server

class Unreachable extends Error {}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}` }
  if (body) headers['Content-Type'] = 'application/json'
  const settings = { method: body ? 'POST' : 'GET', headers, cache: 'no-store', credentials: 'omit', redirect: 'error' }
  try {
    const response = await fetch(path, { ...settings, body: body && JSON.stringify(body), signal: AbortSignal.timeout(15000) })
    if (response.status === 403) return refused()
    if (response.headers.get('Content-Type')?.startsWith('image/')) return { status: 200, blob: await response.blob() }
    return { status: response.status, data: await response.json() }
  } catch (error) {
    throw new Unreachable(error.message)
  }
}

function refused() {
  if (!works) return { status: 403, data: {} }
  works = false
  for (const element of document.querySelectorAll('main button, main input, main select')) element.disabled = true
  const n = unsent.length
  const kept = n ? ` ${count(n, 'answer')} not sent yet ${n > 1 ? 'are' : 'is'} kept in this browser and sent then.` : ''
  say(project
    ? `The server was started again. Open the address that label.py printed this time.${kept}`
    : 'Open the address that label.py printed: it ends with the token of this start.')
  connection('')
  return { status: 403, data: {} }
}

const count = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`

function say(text) {
  $('notice').textContent = text
  $('notice').hidden = !text
}

function connection(text, bad = false) {
  const e = $('connection')
  if (e.textContent !== text) e.textContent = text
  e.classList.toggle('bad', bad)
}

function lost() {
  const n = unsent.length
  const kept = n > 1 ? `your last ${n} answers are kept` : n ? 'your last answer is kept' : 'nothing is lost'
  connection(`Server not reachable; ${kept}. Trying again.`, true)
}

// Answers on their way

let unsent = [] // oldest first: {annotator, key, action, label, seconds, at}, labels by name
let sending = null
let failures = 0
let retry = 0
const tab = crypto.randomUUID()
const prefix = () => `dalmax.unsent.${project.name}.`

function save() {
  store(prefix() + tab, unsent.length ? JSON.stringify(unsent) : null)
}

/* What a closed page could not send. Pages that are open hold a lock each, so that nobody sends their answers. */
async function adopt() {
  const left = storedKeys().filter(key => key.startsWith(prefix()) && key !== prefix() + tab)
  for (const key of left) {
    await locked(key, true, () => {
      const before = unsent.length
      try {
        for (const answer of JSON.parse(stored(key))) {
          if (typeof answer.annotator === 'string' && typeof answer.key === 'string') unsent.push(answer)
        }
      } catch { /* not ours */ }
      unsent.sort((a, b) => a.at - b.at)
      save()
      store(key, null)
      if (unsent.length > before) say(`${count(unsent.length - before, 'answer')} of an earlier page sent now.`)
    })
  }
}

function locked(name, ifAvailable, work) {
  if (!navigator.locks) return work(true)
  return navigator.locks.request(name, { ifAvailable }, lock => lock && work(lock))
}

function answer(items, action, label, seconds) {
  const name = label === null ? null : project.classes[label]
  for (const item of items) {
    answered.set(item.key, Infinity)
    unsent.push({ annotator, key: item.key, action, label: name, seconds: seconds / items.length, at: Date.now() })
  }
  position += items.length
  save()
  send()
}

function send() {
  sending ??= deliver().finally(() => { sending = null })
  return sending
}

/* Send answers in order until none are left. One that makes no sense to the server is named and given up. */
async function deliver() {
  clearTimeout(retry)
  let most = BATCH
  while (unsent.length && works) {
    const others = unsent.findIndex(a => a.annotator !== unsent[0].annotator)
    const batch = unsent.slice(0, Math.min(most, others < 0 ? unsent.length : others))
    const answers = batch.map(({ key, action, label, seconds }) =>
      ({ key, action, label: label === null ? null : project.classes.indexOf(label), seconds }))
    let result
    try {
      result = await call('/api/answers', { annotator: batch[0].annotator, answers })
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error
      lost()
      return again()
    }
    if (result.status === 403) return
    if (result.status >= 500 || result.status === 408) {
      connection(`${result.data.error} Your last ${count(batch.length, 'answer')} kept; trying again.`, true)
      return again()
    }
    if (result.status !== 200 && batch.length > 1) {
      most = 1 // to find out which
      continue
    }
    if (result.status !== 200) say(`An answer was refused: ${batch[0].label ?? batch[0].action}: ${result.data.error}`)
    failures = 0
    settled++
    for (const { key } of batch) answered.set(key, settled)
    unsent.splice(0, batch.length)
    save()
    connection('')
  }
  soon()
}

function again() {
  retry = setTimeout(send, RETRY[Math.min(failures++, RETRY.length - 1)])
}

async function undo() {
  if (undoing || !works) return
  undoing = true
  try {
    await send()
    if (unsent.length) return say('Undo is possible again when the server is back.')
    const { status, data } = await call('/api/undo', { annotator })
    if (status !== 200) return say(data.error ?? '')
    if (!data.item) return say('There is nothing to undo.')
    say('')
    answered.delete(data.item.key)
    position = Math.max(1, position - 1)
    queue = [data.item, ...queue.filter(item => item.key !== data.item.key)]
    show()
    soon()
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    lost()
  } finally { undoing = false }
}

// Images to come

const open = items => items.filter(item => !answered.has(item.key))

function refill() {
  asking ??= more().finally(() => { asking = null })
  return asking
}

/* Ask for images. The one on the screen stays; those decided on meanwhile are left out. */
async function more() {
  const asked = settled
  renewed = performance.now()
  let result
  try {
    result = await call(`/api/items?annotator=${encodeURIComponent(annotator)}&n=${AHEAD}`)
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    lost()
    return setTimeout(refill, RETRY.at(-1))
  }
  if (result.status !== 200) return result.data.error && say(result.data.error)
  for (const item of result.data.items) if (answered.get(item.key) <= asked) answered.delete(item.key) // asked again
  const first = queue.slice(0, 1)
  queue = [...first, ...open(result.data.items).filter(item => item.key !== first[0]?.key)]
  if (view === 'empty' || view === '') show()
  else preload()
}

const pictures = new Map() // address -> promise of {url} or {reason}

function picture(address) {
  let found = pictures.get(address)
  pictures.delete(address)
  found ??= fetchPicture(address)
  pictures.set(address, found) // the latest last
  if (pictures.size > KEPT + $('thumbs').childElementCount) {
    const [oldest, old] = pictures.entries().next().value
    pictures.delete(oldest)
    old.then(p => p.url && URL.revokeObjectURL(p.url))
  }
  return found
}

async function fetchPicture(address) {
  for (let i = 0; works; i++) {
    try {
      const { blob, data } = await call(address)
      return blob ? { url: URL.createObjectURL(blob) } : { reason: data.unreadable ?? data.error ?? 'no picture' }
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error
      lost()
      await new Promise(done => setTimeout(done, RETRY[Math.min(i, RETRY.length - 1)]))
    }
  }
  return { reason: 'the server was started again' }
}

const large = item => picture(`/api/images/${item.index}`)

function preload() {
  queue.slice(1, 1 + PRELOADED).forEach(large)
}

// One image

function go(name) {
  view = name
  for (const id of ['single', 'sheet', 'empty']) $(id).hidden = id !== name
  for (const id of ['skip', 'unsure']) $(id).hidden = name !== 'single'
  $('grid').replaceChildren(name === 'sheet' ? 'One by one' : 'Grid', kbd('G'))
}

async function show() {
  queue = open(queue)
  if (queue.length < REFILL) refill()
  shown = null
  if (!queue.length) return nothing()
  const item = queue[0]
  go('single')
  $('single').dataset.index = item.index
  delete $('single').dataset.shown
  $('waiting').hidden = false
  $('image').hidden = $('no-image').hidden = true
  describe(item)
  const { url, reason } = await large(item)
  if (queue[0] !== item || view !== 'single') return
  const image = $('image')
  let why = reason
  if (url) {
    image.src = url
    image.alt = `Image ${position}`
    await image.decode().catch(() => { why = 'the browser cannot show it' })
    if (queue[0] !== item || view !== 'single') return
    image.classList.toggle('small', Math.max(image.naturalWidth, image.naturalHeight) <= 128)
  }
  image.hidden = Boolean(why)
  $('no-image').hidden = !why
  $('no-image').textContent = why ? `Image ${position} cannot be read: ${why}. Skip it.` : ''
  $('waiting').hidden = true
  clock = { since: performance.now(), spent: 0 }
  shown = item
  $('single').dataset.shown = item.index
  const heard = why ? $('no-image').textContent : `Image ${position}. ${$('accept').hidden ? '' : suggestion(item)}`
  $('live').textContent = heard
  preload()
}

const percent = p => `${Math.round(100 * p)} %`
const suggestion = item => `Suggested: ${project.classes[item.suggestion]}` +
  (item.probability === null ? '' : `, ${percent(item.probability)}`)

function describe(item) {
  const standing = item.label === null ? '' : ` It is labeled ${project.classes[item.label]}.`
  $('why').textContent = `Image ${position}: ${item.why}.${standing}`
  $('path').textContent = item.path
  $('accept').hidden = item.suggestion === null
  if (item.suggestion !== null) $('accept').replaceChildren(suggestion(item), kbd('Enter'))
  $('filter').value = ''
  order(item)
}

/* The most probable classes come first where there are many; each keeps its key. */
function order(item) {
  const buttons = $('classes'), wanted = $('filter').value.trim().toLowerCase()
  const all = project.classes.map((_, i) => i)
  const first = project.classes.length > 9 ? item.ranked : []
  const focused = document.activeElement
  let matches = 0
  for (const label of new Set([...first, ...all])) {
    const button = buttons.querySelector(`[data-class="${label}"]`)
    button.hidden = !project.classes[label].toLowerCase().includes(wanted)
    button.classList.toggle('stands', label === item.label)
    if (label === item.label) button.setAttribute('aria-current', 'true')
    else button.removeAttribute('aria-current')
    matches += !button.hidden
    if (project.classes.length > 9) buttons.append(button)
  }
  if (document.activeElement !== focused && buttons.contains(focused)) focused.focus()
  buttons.scrollTop = 0
  return matches
}

function visibleSeconds() {
  return (clock.spent + (document.hidden ? 0 : performance.now() - clock.since)) / 1000
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) clock.spent += performance.now() - clock.since
  else { clock.since = performance.now(); poll() }
})

/* Answers count for the image that can be seen. */
function decide(action, label = null) {
  if (!shown || undoing || !works || view !== 'single') return
  say('')
  answer([shown], action, label, visibleSeconds())
  show()
}

function nothing() {
  go('empty')
  $('empty-text').textContent = works ? 'No images are left to label now. New ones appear here by themselves.' : ''
}

// The grid

let cells = [] // {item, button, marked, loaded, unreadable}
let nSheets = 0

/* Show images with a suggestion: with the most frequent one where none is given, or none are left of it. */
async function openSheet(label, orOther = false) {
  const sheet = ++nSheets
  shown = null
  go('sheet')
  cells = []
  $('thumbs').replaceChildren()
  sheetTexts()
  $('sheet-text').textContent = 'Loading'
  await send()
  const which = label === undefined ? '' : `&label=${label}`
  let result
  try {
    result = await call(`/api/grid?annotator=${encodeURIComponent(annotator)}&n=${$('size').value}${which}`)
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    lost()
    return view === 'sheet' && show()
  }
  if (view !== 'sheet' || sheet !== nSheets) return
  if (result.status !== 200) return say(result.data.error ?? '')
  const items = open(result.data.items)
  if (!items.length && orOther) return openSheet()
  for (const item of items) item.suggestion = result.data.label
  if (result.data.label !== null) $('group').value = result.data.label
  cells = items.map(cell)
  $('thumbs').replaceChildren(...cells.map(c => c.button))
  clock = { since: performance.now(), spent: 0 }
  sheetTexts()
  cells[0]?.button.focus()
  await Promise.all(cells.map(load))
  sheetTexts()
}

function cell(item, i) {
  const button = document.createElement('button')
  const c = { item, button, marked: false, loaded: false, unreadable: false }
  button.type = 'button'
  button.dataset.index = item.index
  button.setAttribute('aria-label', `Image ${i + 1}`)
  button.setAttribute('aria-pressed', 'false')
  button.addEventListener('click', () => { mark(c, !c.marked); sheetTexts() })
  return c
}

function mark(c, marked) {
  c.marked = marked
  c.button.setAttribute('aria-pressed', String(marked))
}

async function load(c) {
  const { url, reason } = await picture(`/api/thumbnails/${c.item.index}`)
  const image = document.createElement('img')
  let why = reason
  if (url) {
    image.alt = ''
    image.src = url
    await image.decode().catch(() => { why = 'the browser cannot show it' })
    image.classList.toggle('small', Math.max(image.naturalWidth, image.naturalHeight) <= 64)
  }
  if (why) { // nobody has seen it: it is not accepted with the others
    c.unreadable = true
    mark(c, true)
    const text = document.createElement('small')
    text.textContent = `cannot be read: ${why}`
    c.button.replaceChildren(text)
  } else c.button.replaceChildren(image)
  c.loaded = true
}

function sheetTexts() {
  const marked = cells.filter(c => c.marked), rest = cells.filter(c => !c.marked)
  const ready = cells.every(c => c.loaded)
  const name = project.classes[cells[0]?.item.suggestion]
  $('sheet').dataset.ready = cells.length && ready
  $('sheet-text').textContent = cells.length
    ? 'Mark the images that are something else, then accept the rest.'
    : 'There are no images with this suggestion now. Suggestions come with each training.'
  $('accept-all').hidden = !cells.length
  $('accept-all').disabled = !ready
  const text = rest.length ? `Accept ${rest.length} as ${name}` : 'Go on with the marked ones'
  $('accept-all').replaceChildren(text, kbd('Enter'))
  $('marked-text').textContent = marked.length
    ? `${count(marked.length, 'image')} marked: choose a class for ${marked.length > 1 ? 'all of them' : 'it'}, ` +
      'or accept the rest and see them one by one.'
    : ''
  $('marked-classes').hidden = !marked.length
}

/* Take some images off the grid as answered. */
function settle(done, label) {
  const seconds = visibleSeconds()
  clock = { since: performance.now(), spent: 0 }
  if (done.length) answer(done.map(c => c.item), 'label', label, seconds)
  cells = cells.filter(c => !done.includes(c))
  for (const c of done) c.button.remove()
}

function acceptRest() {
  if (undoing || !works || !cells.length || !cells.every(c => c.loaded)) return
  const label = cells[0].item.suggestion
  settle(cells.filter(c => !c.marked), label)
  const marked = cells.map(c => c.item)
  if (!marked.length) return openSheet(label, true)
  queue = [...marked, ...queue.filter(item => !marked.some(m => m.key === item.key))]
  show()
}

function relabel(label) {
  const chosen = cells.filter(c => c.marked && !c.unreadable)
  if (undoing || !works || !chosen.length) return
  settle(chosen, label)
  if (!cells.length) return openSheet(Number($('group').value), true)
  sheetTexts()
  cells[0].button.focus()
}

function move(key) {
  const at = cells.findIndex(c => c.button === document.activeElement)
  const top = cells[0]?.button.offsetTop
  const columns = cells.filter(c => c.button.offsetTop === top).length
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key]
  cells[Math.max(0, Math.min(cells.length - 1, at + step))]?.button.focus()
}

// Progress

let polling = 0

function soon() {
  clearTimeout(polling)
  polling = setTimeout(poll, 250)
}

async function poll() {
  clearTimeout(polling)
  if (!works || !annotator) return
  try {
    const { status, data } = await call(`/api/progress?annotator=${encodeURIComponent(annotator)}`)
    if (status === 200) {
      if (!unsent.length) connection('')
      progress(data)
      const old = performance.now() - renewed > RENEW
      if (version !== null && (version !== data.version || view === 'empty' || old)) refill()
      version = data.version
      await adopt()
      if (unsent.length) send()
    }
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    lost()
  }
  clearTimeout(polling)
  if (!document.hidden) polling = setTimeout(poll, POLL)
}

function progress(p) {
  const speed = p.labels_per_minute === null ? '' : Math.round(p.labels_per_minute)
  const rows = [
    ['Labeled', `${p.n_labeled} of ${p.n_images}`], ['By you', p.n_mine],
    ['To measure', `${p.validation.done} of ${p.validation.wanted}`], ['Skipped', p.n_skipped],
    ['Unsure', p.n_unsure], ['Disputed', p.n_disputed], ['Labels a minute', speed],
  ].filter(([name, value]) => value !== '' && (value !== 0 || name === 'By you'))
  $('counts').dataset.mine = p.n_mine
  $('counts').replaceChildren(...rows.flatMap(([name, value]) => [element('dt', name), element('dd', value)]))
  const work = { embedding: 'Reading the images', training: 'Training', idle: '', failed: 'Training failed' }
  const state = [work[p.work.state] ?? p.work.state, p.work.text].filter(Boolean).join(': ')
  if ($('work').textContent !== state) $('work').textContent = state
  $('work').dataset.state = p.work.state
  const missing = p.n_query - p.n_new
  const when = missing > 0 ? ` The next training comes after ${count(missing, 'label')} more.` : ''
  $('next').textContent = `Images are chosen by ${p.strategy}.${when}`
  $('advice').replaceChildren(...p.advice.map(line => element('li', line)))
  curve(p.curve)
  bars(p.classes)
}

function element(name, text) {
  const e = document.createElement(name)
  e.textContent = text
  return e
}

const kbd = key => element('kbd', key)

function bars(classes) {
  const most = Math.max(1, ...classes.map(c => c.count))
  $('bars').replaceChildren(...classes.map((c, i) => {
    const row = element('li', ''), bar = element('div', '')
    const name = element('span', project.classes[i] ?? c.name)
    name.className = 'name'
    bar.className = 'bar'
    bar.style.setProperty('--share', `${100 * c.count / most}%`)
    row.append(name, element('span', c.count), bar)
    return row
  }))
}

/* Accuracy over labels, with its interval. */
function curve(points) {
  const last = points.at(-1)
  $('accuracy').textContent = last
    ? `${percent(last.accuracy)}, between ${percent(last.low)} and ${percent(last.high)} (95 %), ` +
      `on ${count(last.n_val, 'image')} after ${count(last.n_labeled, 'label')}.`
    : 'Not measured yet: it needs a training, and validation images with labels.'
  if (!last) return $('curve').replaceChildren()
  const [w, h, left, bottom] = [280, 130, 42, 18]
  const end = Math.max(...points.map(p => p.n_labeled)), start = Math.min(...points.map(p => p.n_labeled))
  const x = n => end === start ? (left + w) / 2 : left + 6 + (n - start) / (end - start) * (w - left - 16)
  const y = share => 6 + (1 - share) * (h - bottom - 12)
  const svg = draw('svg', { viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-labelledby': 'curve-title' })
  const title = draw('title', { id: 'curve-title' })
  title.textContent = `Accuracy over labels: ${$('accuracy').textContent}`
  svg.append(title)
  for (const share of [0, 0.5, 1]) {
    svg.append(draw('line', { class: 'axis', x1: left, x2: w, y1: y(share), y2: y(share) }))
    svg.append(tick(left - 5, y(share) + 4, 'end', percent(share)))
  }
  svg.append(tick(x(start), h - 4, end === start ? 'middle' : 'start', start))
  if (end > start) svg.append(tick(x(end), h - 4, 'end', end))
  const above = points.map(p => [x(p.n_labeled), y(p.high)]), below = points.map(p => [x(p.n_labeled), y(p.low)])
  if (end > start) {
    svg.append(draw('polygon', { class: 'band', points: [...above, ...below.reverse()].join(' ') }))
    svg.append(draw('polyline', { class: 'line', points: points.map(p => [x(p.n_labeled), y(p.accuracy)]).join(' ') }))
  } else svg.append(draw('line', { class: 'line', x1: x(end), x2: x(end), y1: y(last.low), y2: y(last.high) }))
  for (const p of points) svg.append(draw('circle', { class: 'dot', r: 3, cx: x(p.n_labeled), cy: y(p.accuracy) }))
  $('curve').replaceChildren(svg)
}

function draw(name, attributes) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value)
  return e
}

function tick(x, y, anchor, text) {
  const e = draw('text', { class: 'tick', x, y, 'text-anchor': anchor })
  e.textContent = text
  return e
}

// Keys and buttons

const commands = { accept, skip, unsure, undo: back, grid, find, help }
const keyOf = { Enter: 'accept', '/': 'find' }
let classKeys = [] // by class

function accept() {
  if (view === 'sheet') acceptRest()
  else if (shown && shown.suggestion !== null) decide('label', shown.suggestion)
}

function skip() { decide('skip') }
function unsure() { decide('unsure') }
function back() { undo() }
function help() { $('keys').showModal() }

function grid() {
  if (view === 'sheet') show()
  else if (!$('grid').hidden) openSheet()
}

function find() {
  if (view === 'single' && !$('find').hidden) $('filter').select()
}

function choose(label) {
  if (view === 'sheet') relabel(label)
  else decide('label', label)
}

function setUpKeys() {
  for (const button of document.querySelectorAll('[data-key]')) keyOf[button.dataset.key] = button.id
  const free = [...'123456789abcdefghijklmnopqrstuvwxyz'].filter(key => !(key in keyOf))
  classKeys = project.classes.map((_, i) => free[i] ?? '')
  for (const id of ['classes', 'marked-classes']) $(id).replaceChildren(...project.classes.map((name, i) => {
    const button = document.createElement('button'), text = element('span', name)
    button.type = 'button'
    button.dataset.class = i
    text.className = 'name'
    button.append(text)
    if (classKeys[i]) {
      button.append(kbd(classKeys[i]))
      button.setAttribute('aria-keyshortcuts', classKeys[i])
    }
    button.addEventListener('click', () => choose(i))
    return button
  }))
  $('group').replaceChildren(...project.classes.map((name, i) => Object.assign(element('option', name), { value: i })))
  $('find').hidden = project.classes.length <= 9
  $('single').classList.toggle('many', project.classes.length > 9)
  $('grid').hidden = project.blind
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || !project || !view) return
  if ($('keys').open || event.target.matches('select, #name')) return
  if (event.target === $('filter')) return onFilterKey(event)
  const { key } = event
  if (view === 'sheet' && key.startsWith('Arrow')) return event.preventDefault(), move(key)
  if (key === 'Escape' && view === 'sheet') return show()
  const onButton = event.target.matches('button:focus-visible') && !event.target.matches('#thumbs button')
  if (key === 'Enter' && onButton) return // presses it
  const name = keyOf[key.length === 1 ? key.toLowerCase() : key]
  const label = classKeys.indexOf(key.toLowerCase())
  if (name === undefined && (label < 0 || key.length > 1)) return
  event.preventDefault()
  if (event.repeat) return // a key that is held decides on one image
  if (name !== undefined) commands[name]()
  else choose(label)
}

function onFilterKey(event) {
  const filter = $('filter')
  const first = $('classes').querySelector('button:not([hidden])')
  if (event.key === 'Escape') {
    filter.value = ''
    filter.blur()
    if (shown) order(shown)
  } else if (event.key === 'Enter' && !event.repeat && first && shown) {
    filter.blur()
    decide('label', Number(first.dataset.class))
  } else if (event.key !== 'Enter') return
  event.preventDefault()
}

function setUpButtons() {
  for (const [id, command] of Object.entries(commands)) if (id !== 'find') $(id).addEventListener('click', command)
  $('accept-all').addEventListener('click', acceptRest)
  $('filter').addEventListener('input', () => shown && order(shown))
  $('group').addEventListener('change', () => openSheet(Number($('group').value)))
  $('size').addEventListener('change', () => openSheet())
  $('who').addEventListener('click', () => ask())
  document.addEventListener('keydown', onKey)
  document.addEventListener('click', event => { // or the next Enter would press the same button again
    if (event.detail > 0 && event.target.closest('main button') && view === 'single') document.activeElement.blur()
  })
  addEventListener('online', send)
}

// The start

function ask() {
  go('')
  shown = null
  for (const id of ['commands', 'progress', 'who']) $(id).hidden = true
  $('ask').hidden = false
  $('name').value = annotator
  $('name').focus()
}

async function begin(name) {
  annotator = name
  $('ask').hidden = true
  for (const id of ['commands', 'progress']) $(id).hidden = false
  $('who').hidden = Boolean(project.annotator)
  $('who').textContent = `You are ${annotator}`
  queue = []
  view = ''
  version = null
  await adopt()
  if (unsent.length) await send()
  await poll()
  position = Number($('counts').dataset.mine ?? 0) + 1
  await refill()
}

async function start() {
  if (!token) return refused()
  let result
  try {
    result = await call('/api/project')
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error
    lost()
    return setTimeout(start, RETRY.at(-1))
  }
  if (result.status !== 200) return
  connection('')
  project = result.data
  $('title').textContent = project.name
  document.title = `${project.name} – DalMax`
  locked(prefix() + tab, false, () => new Promise(() => {})) // held until the page is closed
  setUpKeys()
  setUpButtons()
  $('ask').addEventListener('submit', event => {
    event.preventDefault()
    const name = $('name').value.trim()
    if (!name) return
    store('dalmax.annotator', name)
    begin(name)
  })
  const name = project.annotator ?? stored('dalmax.annotator')
  if (name) begin(name)
  else ask()
}

start()
