"""A person who labels in an opened page."""

from labeling_projects import truth

KEYS = "123456789abcdefhijklmnopqrtvwxyz"  # of classes: s, u and g are commands


class Person:
    """Somebody who labels in a page: by keys or, where it is a touch screen, by tapping."""

    def __init__(self, visit, name=None, touch=False, truth=truth):
        self.page = visit.page
        self.touch = touch
        self.truth = truth  # class of a path
        self.done = []  # (path, action, label) in order
        if name:
            self.page.fill("#name", name)
            self.do("#ask button", "Enter")
        self.wait()

    def do(self, selector, key):
        """Tap a button, or press its key."""
        if self.touch:
            self.page.locator(selector).tap()
        else:
            self.page.keyboard.press(key)

    def wait(self, besides=None):
        """Wait for an image to be visible, other than one; returns its index."""
        shown = "document.querySelector('#single:not([hidden])')?.dataset.shown"
        self.page.wait_for_function(f"i => {shown} !== undefined && {shown} !== i", arg=besides)
        return self.page.get_attribute("#single", "data-shown")

    @property
    def index(self):
        return int(self.page.get_attribute("#single", "data-shown"))

    @property
    def path(self):
        return self.page.inner_text("#path")

    def label(self, label=None):
        """Give the image its true class, or another one, and wait for the next image."""
        i, path = self.index, self.path
        label = self.truth(path) if label is None else label
        self.do(f"#classes [data-class='{label}']", KEYS[label])
        self.done.append((path, "label", label))
        self.wait(str(i))

    def command(self, name, key):
        """Skip or unsure."""
        i, path = self.index, self.path
        self.do(f"#{name}", key)
        self.done.append((path, name, None))
        self.wait(str(i))

    def undo(self):
        """Go back to the image before, and check that it is the one."""
        i = self.index
        self.do("#undo", "Backspace")
        self.wait(str(i))
        assert self.path == self.done.pop()[0]

    def open_grid(self):
        """Show the grid; returns the images' indices."""
        self.do("#grid", "g")
        self.page.wait_for_selector("#sheet[data-ready=true]")
        return [int(b.get_attribute("data-index")) for b in self.page.locator("#thumbs button").all()]

    def settled(self):
        """Wait until the server has acknowledged everything."""
        self.page.wait_for_function(ALL_SENT)
        return self


ALL_SENT = "() => !Object.keys(localStorage).some(k => k.startsWith('dalmax.unsent'))"


def reads(page, selector, text):
    """Wait until an element's text has some words."""
    page.locator(selector, has_text=text).wait_for()
