"""model.pt: what is saved is what is loaded, and a damaged file is one line."""

import os

import pytest
import small
import torch
from small import CPU

from nets import NETS
from training.model_file import model_bytes, read_model
from utils import UserError


@pytest.mark.parametrize("name", NETS)
def test_saved_model_predicts_the_same(name, tmp_path):
    pool = small.pool(name=name)
    learner = small.learner(pool, name, min_steps=2)
    n_channels = pool.inputs.shape[0]
    mean, std = torch.linspace(0.1, 0.3, n_channels), torch.linspace(0.3, 0.1, n_channels)
    learner.net.set_input_stats(mean, std)
    notes = {"shape": list(pool.inputs.shape)} if NETS[name].reads_features else {}
    (tmp_path / "model.pt").write_bytes(model_bytes(learner, name, ["a", "b", "c", "d"], 16, **notes))
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["classes"] == ["a", "b", "c", "d"]
    loaded, content = read_model(tmp_path / "model.pt", CPU)
    assert content["classes"] == ["a", "b", "c", "d"]
    torch.testing.assert_close(loaded.probs(pool.inputs), learner.probs(pool.inputs))
    assert loaded.net.dropout.p == learner.net.dropout.p
    assert content["mean"] == pytest.approx(mean.tolist())
    assert content["std"] == pytest.approx(std.tolist())


def test_notes_are_saved_with_the_model(tmp_path, learner):
    (tmp_path / "model.pt").write_bytes(model_bytes(learner, "SmallCNN", ["a", "b", "c", "d"], 16, train_seconds=1.5))
    assert read_model(tmp_path / "model.pt", CPU)[1]["train_seconds"] == 1.5


def test_damaged_model_is_an_error(tmp_path):
    for content in (b"", b"nonsense", b"PK\x03\x04"):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"is not a model\.pt of DalMax"):
            read_model(tmp_path / "model.pt", CPU)
    facts = {"net_name": "SmallCNN", "classes": ["a", "b"], "img_size": 16, "dropout": 0.5, "state_dict": {}}
    others = [{**facts, "img_size": 0}, {**facts, "img_size": 2.5}, {**facts, "net_name": "Nonsense"}, facts]
    for content in ([1, 2], {"net_name": "SmallCNN", "classes": 4}, {"net_name": ["SmallCNN"]}, *others):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(UserError, match=r"is not a model\.pt of DalMax"):
            read_model(tmp_path / "model.pt", CPU)
    with pytest.raises(UserError):
        read_model(tmp_path / "missing.pt", CPU)


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"is not a model\.pt of DalMax: .*not a regular file"):
        read_model(tmp_path / "model.pt", CPU)
