"""Which image each annotator sees next, what is recorded, and when a network is trained."""

import random

import pytest
from labeling_projects import CLASSES, Desk, truth

import label as label_script
from files import to_csv
from labeling.log import COLUMNS, Decision, read_log
from labeling.project import Project
from labeling.session import Answer
from labeling.work import Failed, Suggestion
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def desk(tmp_path):
    """A project of 40 images whose first draw is done."""
    made = Desk(tmp_path)
    made.ready()
    made.answer_task()
    yield made
    made.close()


def label(desk, annotator="x", n=1, wrong=False):
    """Label the next n images; returns the items."""
    done = []
    for _ in range(n):
        item = desk.session.items(annotator, 3)[0]
        cls = (truth(item.path) + wrong) % 3
        desk.session.decide(annotator, [Answer(item.index, "label", cls, 1.0)])
        done.append(item)
    return done


def test_validation_images_take_turns_with_those_of_the_query(desk):
    kinds = [item.kind for item in label(desk, n=12)]
    assert kinds.count("validation") == 6
    assert {*kinds[:2]} == {*kinds[2:4]} == {"query", "validation"}


def test_the_first_image_is_there_before_any_query(tmp_path):
    desk = Desk(tmp_path)
    assert desk.session.items("x", 1)[0].kind == "validation"
    desk.close()


def test_without_validation_images_the_first_ones_are_drawn_at_random(tmp_path):
    desk = Desk(tmp_path, n_val=0)
    assert desk.session.items("x", 1)[0].kind == "random"
    desk.ready()
    desk.answer_task()
    assert [item.kind for item in desk.session.items("x", 3)] == ["random", "query", "query"]  # the first is shown
    desk.close()


def test_a_training_follows_n_query_labels_of_two_classes(desk):
    before = label(desk, n=7)
    assert sum(item.kind == "query" for item in before) < 4
    assert not desk.tasks
    label(desk, n=1)
    assert [task.train for task in desk.tasks] == [True]
    assert len(desk.tasks[0].labels) == 4
    assert all(truth(desk.project.files[i].path) == c for i, c in desk.tasks[0].labels.items())


def test_validation_images_never_train_and_are_never_picked(desk):
    label(desk, n=20)
    while desk.tasks:
        task = desk.answer_task()
        assert not {*task.labels, *task.candidates} & desk.project.is_validation
        assert {*task.validation} <= desk.project.is_validation


def test_labeling_goes_on_while_a_network_is_trained_and_one_training_runs_at_a_time(desk):
    label(desk, n=30)
    assert len(desk.tasks) == 1
    desk.answer_task()
    assert len(desk.tasks) == 1  # what came meanwhile


def test_labels_of_one_class_ask_for_more_first_images(desk):
    for item in desk.session.items("x", 100):
        if item.kind == "query":
            desk.session.decide("x", [Answer(item.index, "label", 0, 1.0)])
    assert [(task.train, task.n) for task in desk.tasks] == [(False, 8)]
    picks = desk.answer_task().candidates[::-1][:8]
    assert [p.rank for p in desk.project.records.picks] == [*range(16)]
    assert {p.round for p in desk.project.records.picks} == {0}
    assert {i.index for i in desk.session.items("x", 100) if i.kind == "query"} == {*picks}


def test_a_new_query_replaces_the_rest_of_the_old_one_but_not_the_image_on_the_screen(desk):
    label(desk, n=8)
    shown = desk.session.items("x", 3)
    picks = [i for i in desk.tasks[0].candidates if i not in {s.index for s in shown}][:8]
    desk.answer_task(picks)
    after = desk.session.items("x", 30)
    assert after[0].index == shown[0].index
    queried = {item.index for item in after if item.kind == "query"} - {shown[0].index}
    assert queried == {*picks}


def test_suggestions_are_shown_but_not_for_validation_images(desk):
    label(desk, n=8)
    desk.answer_task()
    for item in desk.session.items("x", 40):
        expected = 1 if item.kind == "query" and item.index in {*desk.session._queue} else None
        if item.kind != "random":
            assert item.suggestion == expected
            assert item.ranked == ((1, 0, 2) if expected else ())


def test_blind_shows_and_records_no_suggestion(desk):
    label(desk, n=8)
    desk.answer_task()
    desk.close()
    desk.open(blind=True)
    desk.ready()
    desk.answer_task()
    assert all(item.suggestion is None and not item.ranked for item in desk.session.items("x", 40))
    assert desk.session.grid("x", 12, None) == (None, [])
    label(desk, n=5)
    assert all(d.suggestion == "" for d in read_log(desk.project.folder / "labels.csv"))


def test_a_shown_suggestion_is_recorded_with_its_probability(desk):
    label(desk, n=8)
    desk.answer_task()
    while (item := label(desk)[0]).suggestion is None:
        pass
    last = read_log(desk.project.folder / "labels.csv")[-1]
    assert (last.path, last.suggestion, float(last.probability), last.seconds) == (item.path, "gull", 0.9, "1.00")


@pytest.mark.parametrize("seed", range(5))
def test_two_annotators_never_have_the_same_image(desk, seed):
    rng, held = random.Random(seed), {"x": set(), "y": set()}
    for _ in range(60):
        who, other = rng.sample(["x", "y"], 2)
        items = desk.session.items(who, rng.randint(1, 4))
        if rng.random() < 0.2:
            _, grid = desk.session.grid(who, 6, None)
            items = items + grid
        held[who] |= {item.index for item in items}
        assert not {item.index for item in items} & held[other]
        if items:
            item = rng.choice(items)
            desk.session.decide(who, [Answer(item.index, rng.choice(["skip", "unsure"]), None, 1.0)])
        if desk.tasks:
            desk.answer_task()
        held = {name: {i for i in idxs if desk.session._leases.get(i)} for name, idxs in held.items()}
        if not items:
            break


def test_images_of_a_silent_annotator_go_to_another(desk):
    first = desk.session.items("x", 1)[0]
    assert first.index not in [item.index for item in desk.session.items("y", 100)]
    desk.now = 1000.0
    assert first.index in [item.index for item in desk.session.items("y", 100)]


def test_an_answer_sent_twice_is_written_once(desk):
    item = desk.session.items("x", 1)[0]
    for _ in range(2):
        desk.session.decide("x", [Answer(item.index, "label", 2, 1.0)])
    assert len(read_log(desk.project.folder / "labels.csv")) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(-1, "label", 0, 1.0),
        Answer(40, "label", 0, 1.0),
        Answer(0, "label", 3, 1.0),
        Answer(0, "label", -1, 1.0),
        Answer(0, "label", None, 1.0),
        Answer(0, "skip", 1, 1.0),
        Answer(0, "undo", None, 1.0),
        Answer(0, "review", 1, 1.0),
        Answer(0, "erase", None, 1.0),
    ],
)
def test_an_answer_without_sense_is_refused_with_all_that_came_with_it(desk, answer):
    with pytest.raises(UserError):
        desk.session.decide("x", [Answer(1, "label", 0, 1.0), answer])
    assert read_log(desk.project.folder / "labels.csv") == []


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), None])
def test_seconds_that_are_no_number_are_left_out(desk, seconds):
    desk.session.decide("x", [Answer(1, "label", 0, seconds)])
    assert read_log(desk.project.folder / "labels.csv")[0].seconds == ""


def test_undo_takes_decisions_back_one_by_one_and_shows_the_image_again(desk):
    done = label(desk, n=3)
    for item in reversed(done):
        back = desk.session.undo("x")
        assert (back.index, back.label) == (item.index, truth(item.path))
        assert desk.session.items("x", 3)[0].index == item.index
    assert desk.session.undo("x") is None
    assert desk.session.progress("x")["n_labeled"] == 0


def test_undo_takes_back_nothing_of_others(desk):
    label(desk, "x")
    assert desk.session.undo("y") is None


def test_a_skipped_image_is_not_shown_again_and_an_unsure_one_to_others_alone(desk):
    skipped, unsure = desk.session.items("x", 2)
    answers = [Answer(skipped.index, "skip", None, 1.0), Answer(unsure.index, "unsure", None, 1.0)]
    desk.session.decide("x", answers)
    assert not {skipped.index, unsure.index} & {item.index for item in desk.session.items("x", 100)}
    desk.now = 1000.0
    others = {item.index: item.kind for item in desk.session.items("y", 100)}
    assert others[unsure.index] == "unsure"
    assert skipped.index not in others


def write_log(desk, *rows):
    """Replace the log, as of merged annotators, and start again."""
    desk.close()
    decisions = [Decision("t", who, desk.project.files[i].path, "label", CLASSES[c]) for who, i, c in rows]
    (desk.project.folder / "labels.csv").write_text(to_csv(COLUMNS, decisions))
    desk.open()
    desk.ready()


def test_what_two_disagree_on_is_shown_to_a_third_and_the_majority_counts(desk):
    write_log(desk, ("x", 0, 0), ("y", 0, 1), ("z", 1, 1))
    assert 0 not in desk.project.labels()
    assert [item.index for item in desk.session.items("x", 100) if item.kind == "disputed"] == []
    first = desk.session.items("z", 1)[0]
    assert (first.index, first.kind) == (0, "disputed")
    desk.session.decide("z", [Answer(0, "label", 1, 1.0)])
    assert desk.project.labels()[0] == 1


def test_where_all_disagree_one_of_them_decides(desk):
    write_log(desk, ("x", 0, 0), ("y", 0, 1))
    first = desk.session.items("x", 1)[0]
    assert (first.index, first.kind) == (0, "disputed")
    desk.session.decide("x", [Answer(0, "label", 0, 1.0)])
    assert desk.project.labels()[0] == 0
    assert "disputed" not in {item.kind for item in desk.session.items("y", 100)}
    desk.session.undo("x")
    assert 0 not in desk.project.labels()


def test_unreadable_images_are_never_shown(tmp_path):
    desk = Desk(tmp_path)
    desk.ready({i: "damaged" for i in range(20)})
    desk.answer_task()
    assert all(item.index >= 20 for item in desk.session.items("x", 100))
    desk.close()


def test_after_a_kill_the_queue_and_all_labels_are_there(desk):
    label(desk, n=8)
    desk.answer_task()
    label(desk, n=1)
    labels, queue = desk.project.labels(), desk.session._queue
    desk.project.close()  # no goodbye of the session
    desk.open()
    assert (desk.project.labels(), desk.session._queue) == (labels, queue)
    tasks = desk.ready()
    assert [(task.train, task.n) for task in tasks] == [(False, 0)]  # suggestions for the queue that was there
    desk.answer_task()
    assert any(item.suggestion == 1 for item in desk.session.items("x", 5))


def test_picks_of_a_round_that_was_not_committed_are_dropped(desk):
    label(desk, n=8)
    desk.answer_task()
    rounds = desk.project.folder / "rounds.csv"
    text = rounds.read_text()
    label(desk, n=8)
    desk.answer_task()
    desk.close()
    rounds.write_text(text)
    desk.open()
    assert {p.round for p in desk.project.records.picks} == {0, 1}
    desk.ready()
    desk.answer_task()
    assert [m.row.round for m in desk.project.records.rounds] == [0, 1]


def test_all_images_can_be_labeled_and_the_last_ones_are_trained_on(desk):
    while desk.session.items("x", 1):
        label(desk)
        while desk.tasks:
            desk.answer_task()
    assert len(desk.project.labels()) == 40
    assert desk.project.records.n_trained == 34
    desk.close()
    desk.open()
    assert desk.ready() == []
    assert desk.session.items("x", 1) == []


def test_a_failed_training_is_told_and_labeling_goes_on(desk):
    label(desk, n=8)
    desk.tasks.clear()
    desk.session.receive(Failed("the training diverged", False))
    assert desk.session.progress("x")["work"] == {"state": "failed", "text": "the training diverged"}
    label(desk, n=1)
    assert [task.train for task in desk.tasks] == [True]


def test_a_grid_shows_images_of_one_suggested_class_and_gives_them_to_nobody_else(desk):
    label(desk, n=8)
    desk.answer_task()
    shown = desk.session.items("y", 3)
    cls, items = desk.session.grid("x", 12, None)
    assert cls == 1
    assert len(items) == 12
    assert not {i.index for i in items} & {i.index for i in shown + desk.session.items("y", 100)}
    answers = [Answer(item.index, "label", 1, 0.5) for item in items[:10]]
    desk.session.decide("x", answers)
    assert desk.session.progress("x")["n_mine"] == 18
    again = desk.session.grid("x", 30, 1)[1]
    assert {i.index for i in items[10:]} <= {i.index for i in again}
    assert desk.session.grid("x", 12, 0) == (0, [])


def test_a_review_shows_labels_again_and_its_answers_decide(desk):
    write_log(desk, ("x", 0, 0), ("x", 1, 1), ("x", 2, 2), ("x", 3, 0))
    desk.close()
    desk.open(review={2: Suggestion(1, 0.8, (1, 2, 0)), 0: Suggestion(0, 0.6, (0, 1, 2))})
    items = desk.session.items("y", 10)
    assert [(item.index, item.kind, item.label, item.suggestion) for item in items] == [
        (2, "review", 2, 1),
        (0, "review", 0, 0),
    ]
    desk.session.decide("y", [Answer(2, "label", 1, 1.0), Answer(0, "skip", None, 1.0)])
    assert desk.session.items("y", 10) == []
    assert {i: desk.project.labels()[i] for i in (0, 2)} == {0: 0, 2: 1}
    assert desk.session.undo("y").index == 2
    assert desk.project.labels()[2] == 2
    assert not desk.tasks


def test_progress_counts(desk):
    done = label(desk, n=6)
    desk.session.decide("x", [Answer(desk.session.items("x", 1)[0].index, "skip", None, 3.0)])
    p = desk.session.progress("x")
    n_val = sum(item.kind == "validation" for item in done)
    assert (p["n_images"], p["n_labeled"], p["n_skipped"], p["n_mine"]) == (40, 6, 1, 7)
    assert p["validation"] == {"done": n_val, "wanted": 6}
    assert sum(c["count"] for c in p["classes"]) == 6
    assert p["labels_per_minute"] == pytest.approx(60 * 7 / 9, abs=0.1)


# The project


def opened(desk, **given):
    return Project(desk.root, desk.results, given)


def test_a_second_server_of_one_folder_is_refused(desk):
    with pytest.raises(UserError, match="in use"):
        opened(desk)


def test_classes_can_be_added_and_keep_their_numbers(desk):
    desk.close()
    project = opened(desk, classes=("ant", "heron", "duck", "gull"))
    assert project.settings.classes == (*CLASSES, "ant")
    project.close()
    with pytest.raises(UserError, match="lacks gull"):
        opened(desk, classes=("duck", "heron"))


def test_settings_of_an_earlier_start_stand_until_they_are_given_anew(desk):
    desk.close()
    project = opened(desk, n_query=7)
    assert (project.settings.n_query, project.settings.n_val) == (7, 6)
    project.close()


def test_the_validation_images_stay_when_others_are_added_or_more_are_wanted(desk):
    label(desk, n=5)
    before = [desk.project.files[i].path for i in desk.project.validation]
    desk.close()
    for i in range(5):
        (desk.root / "unlabeled" / f"a{i}.png").write_bytes((desk.root / "unlabeled" / "000.png").read_bytes())
    project = opened(desk, n_val=9)
    after = [project.files[i].path for i in project.validation]
    assert after[:6] == before
    assert len({*after}) == 9
    assert not {project.files[i].path for i in project.validation[6:]} & {*project.standing.votes}
    project.close()


def test_decisions_about_other_images_are_refused_and_missing_ones_noted(desk, capsys):
    label(desk, n=3)
    desk.close()
    paths = [*desk.project.standing.votes]
    (desk.root / paths[0]).unlink()
    opened(desk).close()
    assert "1 images with decisions are no longer" in capsys.readouterr().err
    for path in paths[1:]:
        (desk.root / path).unlink()
    with pytest.raises(UserError, match="about other images"):
        opened(desk)


def test_an_emptied_or_missing_log_is_noticed(desk):
    label(desk, n=8)
    desk.answer_task()
    desk.close()
    log = desk.project.folder / "labels.csv"
    log.write_text("")
    with pytest.raises(UserError, match="is empty, though"):
        opened(desk)
    log.unlink()
    with pytest.raises(UserError, match="is missing, though"):
        opened(desk)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "name the classes"),
        (("a",), "two or more"),
        (("a", "a"), "twice"),
        (("a", "b/c"), "usable as the name of a folder"),
        (("a", ".b"), "usable as the name of a folder"),
        (("a", ""), "usable as the name of a folder"),
        (("a", " b"), "usable as the name of a folder"),
    ],
)
def test_class_names_that_cannot_be_folders_are_refused(tmp_path, classes, message):
    (tmp_path / "DATA").mkdir()
    (tmp_path / "DATA" / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        Project(tmp_path / "DATA", tmp_path / "results", {"classes": classes})


def test_the_link_that_opens_the_page_is_private(tmp_path):
    (tmp_path / "open.html").write_text("old")
    path = label_script.private_link(tmp_path / "open.html", "http://127.0.0.1:8000/#token=abc")
    assert "url=http://127.0.0.1:8000/#token=abc" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
