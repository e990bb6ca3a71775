"""Ways to damage a file: its bytes, lines, cells, values, or what stands at its path. Each tells what it did."""

import csv
import io
import json
import os
import shutil

WRONG_CELLS = ("", "nan", "inf", "-inf", "-1", "-0.5", "1.5", "9.55", "1e300", "-1e300", "9" * 25, "2147483648")
WRONG_CELLS += ("abc", "0x10", "1_0", "\u0663", "=1+1", "\x1b[31m", "\0", '"', "../../x", "\udcff", "True", "0" * 5000)
WRONG_VALUES = (None, True, -1, 10**30, 1e300, float("nan"), "", "abc", "../..", "\x1b[31m", [], {}, [[]], {"a": 1})
# By column of rounds.csv: what no run can have measured.
IMPOSSIBLE = {
    "share": ("-0.5", "1.5", "9.55", "1e300", "inf", "nan", "abc", "-1e-3"),
    "number": ("-1", "-1e300", "inf", "nan", "abc"),
    "count": ("-1", "-1e300", "nan", "abc", "9" * 25, "1.5", "7"),
}


def pick(rng, values):
    """One of some values."""
    values = list(values)
    return values[int(rng.integers(len(values)))]


# Bytes


def flipped(data, rng):
    out, n = bytearray(data), int(rng.choice([1, 1, 3, 20]))
    for i in rng.integers(0, len(out), n):
        out[i] ^= 1 << int(rng.integers(8))
    return bytes(out), f"{n} bits flipped"


def flipped_head(data, rng):
    out, n = bytearray(data), int(rng.choice([1, 2, 5]))
    for i in rng.integers(0, min(len(out), 64), n):
        out[i] = int(rng.integers(256))
    return bytes(out), f"{n} of the first 64 bytes random"


def cut(data, rng):
    n = int(rng.integers(len(data)))
    return data[:n], f"cut after {n} of {len(data)} bytes"


def emptied(data, rng):
    return b"", "emptied"


def zeroed(data, rng):
    n = int(rng.choice([0, rng.integers(len(data))]))
    return data[:n] + bytes(len(data) - n), f"zeros from byte {n}"


def inserted(data, rng):
    n, junk = int(rng.integers(len(data))), rng.bytes(int(rng.choice([1, 4, 300])))
    return data[:n] + junk + data[n:], f"{len(junk)} random bytes inserted at {n}"


def doubled(data, rng):
    return data + data, "doubled"


def replaced(data, rng):
    return rng.bytes(len(data)), "random bytes"


BYTES = (flipped, flipped, flipped_head, cut, cut, emptied, zeroed, inserted, doubled, replaced)


def bytes_of(data, rng):
    """Damage the bytes in one way. Returns the new bytes and what was done."""
    return pick(rng, BYTES)(data, rng) if data else (rng.bytes(20), "random bytes")


# Lines and cells of a CSV


def lines_of(data, rng):
    """Duplicate, remove or reorder lines."""
    lines = data.splitlines(keepends=True)
    i, j = (int(v) for v in rng.integers(0, len(lines), 2))
    how = pick(rng, ("duplicate", "remove", "swap", "reverse", "last without newline", "blank"))
    if how == "duplicate":
        lines.insert(j, lines[i])
    elif how == "remove":
        del lines[i]
    elif how == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    elif how == "reverse":
        lines[1:] = lines[:0:-1]
    elif how == "blank":
        lines.insert(i, b"\n")
    else:
        lines[-1] = lines[-1].rstrip()
    return b"".join(lines), f"lines: {how} {i} {j}"


def cells_of(data, rng):
    """Replace, remove or add cells of a CSV file."""
    rows = _rows(data)
    i, j = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
    how = pick(rng, ("replace", "replace", "replace", "replace", "remove", "add", "no column", "column twice"))
    what = pick(rng, WRONG_CELLS)
    if how == "replace":
        rows[i][j] = what
    elif how == "remove":
        del rows[i][j]
    elif how == "add":
        rows[i].insert(j, what)
    elif how == "no column":
        rows = [[c for k, c in enumerate(row) if k != j] for row in rows]
    else:
        rows = [[*row, row[j]] for row in rows]
    return _csv(rows), f"cells: {how} line {i + 1}, column {j + 1}, {what[:20]!a}"


def impossible_of(data, rng, kinds):
    """Replace a cell by what cannot have been measured, without a check that tells.

    Args:
        data: a rounds.csv.
        rng: decides.
        kinds: "share", "number" or "count" by column.
    """
    rows = _rows(data)
    header = rows[0]
    i = int(rng.integers(1, len(rows)))
    column = pick(rng, [c for c in header if c in kinds])
    what = pick(rng, IMPOSSIBLE[kinds[column]])
    rows[i][header.index(column)] = what
    if "check" in header:
        for row in rows[1:]:
            row[header.index("check")] = ""
    return _csv(rows), f"no checks and {column} of line {i + 1} is {what}"


def _rows(data):
    return list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"))))


def _csv(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "surrogateescape")


# Values of a JSON file


def values_of(data, rng):
    """Replace, remove or add one value of a JSON file, at any depth."""
    content = json.loads(data)
    places = list(_places(content))
    where, key = pick(rng, places)
    how = pick(rng, ("replace", "replace", "replace", "remove", "add", "nest", "list"))
    what = pick(rng, WRONG_VALUES)
    if how == "replace":
        where[key] = what
    elif how == "remove":
        del where[key]
    elif how == "add" and isinstance(where, dict):
        where["added"] = what
    elif how == "nest":
        return b"[" * 100_000, "nested deeply"
    else:
        return json.dumps([content]).encode(), "in a list"
    return json.dumps(content, indent=2).encode(), f"values: {how} {key}, {what!a}"


def _places(content):
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


# Weights


def weights_of(data, rng):
    """Change the weights of a model.pt, or what it says about them."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    how = pick(rng, ("nan", "zero", "noise", "no key", "one class more", "img_size", "text"))
    state = content["state_dict"]
    name = pick(rng, [k for k, v in state.items() if v.is_floating_point() and v.numel() > 1])
    if how == "nan":
        state[name].flatten()[0] = torch.nan
    elif how == "zero":
        state[name].zero_()
    elif how == "noise":
        state[name].add_(1)
    elif how == "no key":
        del content[pick(rng, content)]
    elif how == "one class more":
        content["classes"] = [*content["classes"], "more"]
    elif how == "img_size":
        content["img_size"] = pick(rng, (0, -1, 9, 10**6, None, "8"))
    else:
        content[pick(rng, content)] = "abc"
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue(), f"weights: {how}"


# What stands at the path


def place(path, rng, outside, other=None):
    """Replace a file or folder by something else. Returns what was done.

    Args:
        path: the file.
        rng: decides.
        outside: a folder, to which links lead.
        other: the file of another run, to swap with.
    """
    ways = ["deleted", "folder", "FIFO", "dangling link", "link to a file outside", "link to itself", "a file"]
    ways += ["swapped with another's"] * 3 if other is not None and other.exists() else []
    ways += ["no permission"] if os.geteuid() else []
    how = pick(rng, ways)
    if how == "no permission":
        path.chmod(0)
        return how
    if how == "swapped with another's":
        aside = path.with_name(path.name + ".aside")
        for a, b in ((path, aside), (other, path), (aside, other)):
            a.rename(b)
        return how
    if path.is_dir():
        shutil.rmtree(path)
    elif how == "link to a file outside":
        shutil.copyfile(path, outside / "linked")
        path.unlink()
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
        if rng.integers(2):
            (path / "inside").write_text("x")
    elif how == "FIFO":
        os.mkfifo(path)
    elif how == "dangling link":
        path.symlink_to(outside / "absent")
    elif how == "link to a file outside":
        path.symlink_to(outside / "linked")
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "a file":
        path.write_text("x")
    return how
