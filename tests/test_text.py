"""Text as a task: which files are read, how they are split, spelled, kept and cut into windows."""

import json
import math
import platform
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import source, write_corpus
from full_disk import files_of_at_most
from networks import with_random_biases

from headway.analyze.tools.perplexity import held_out_loss
from headway.checkpoints import Recipe, Run
from headway.checkpoints.schedule import Schedule
from headway.data import tokenized_corpus
from headway.data.corpus import Corpus, read_corpus
from headway.data.parts import NotWrittenError
from headway.data.text import Text
from headway.data.tokenized_corpus import Files, TokenizedCorpus, Windows
from headway.data.tokenizer import BOS, encode_texts, one_token, read_tokenizer, train_bpe, wrapped
from headway.models.config import ModelConfig
from headway.models.hooked_transformer import HookedTransformer
from headway.models.optim import OptimConfig
from headway.train import train

N_TOKENS, LENGTH = 331, 17


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def task(folder: Path) -> Text:
    return Text(str(folder), n_tokens=N_TOKENS, length=LENGTH).resolved()


def recipe(task: Text) -> Recipe:
    model = ModelConfig(n_layers=1, d_model=19, n_ctx=LENGTH, d_head=5, n_heads=3, d_vocab=N_TOKENS, attn_only=True)
    return Recipe(
        task=task,
        model=model,
        optim=OptimConfig(lr=0.01),
        schedule=Schedule(log=0, linear=2),
        steps=3,
        batch_size=5,
        eval_batch_size=7,
    )


def test_half_a_corpus_of_a_process_that_was_killed_is_removed(task: Text, cache: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (whole,) = cache.iterdir()
    for machine in (platform.node(), "another"):
        (cache / f".{whole.name}.{machine}.x.{dead.pid}.part").mkdir()
    replace(task, n_tokens=N_TOKENS - 1, corpus_hash=None, tokenizer_hash=None).resolved()
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == [
        f".{whole.name}.another.x.{dead.pid}.part"
    ]


def test_a_cache_that_cannot_be_written_is_named(task: Text, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenized_corpus, "_log", lambda _: None)  # what pytest captures is a file too
    before = sorted(cache.iterdir())
    with files_of_at_most(101), pytest.raises(NotWrittenError, match="cannot be written"):
        replace(task, n_tokens=N_TOKENS - 2, corpus_hash=None, tokenizer_hash=None).resolved()
    assert sorted(cache.iterdir()) == before


def text_of(task: Text, tokens: np.ndarray | list[int]) -> str:
    return str(read_tokenizer(task.tokenizer_json).decode(list(tokens)))


class TestCorpus:
    def test_what_cannot_be_read_or_says_nothing_is_left_out_and_counted(self, folder: Path):
        (folder / "picture.png").write_bytes(bytes(range(256)))
        (folder / "empty.py").write_text("\n  \n")
        (folder / "copy.py").write_text(source(0))
        (folder / ".hidden.py").write_text("hidden")
        (folder / ".git").mkdir()
        (folder / ".git" / "config").write_text("hidden")
        corpus = read_corpus(str(folder))
        assert corpus.skipped == {"undecodable": 1, "empty": 1, "duplicate": 1, "unreadable": 0}
        assert sorted(corpus.texts) == sorted(source(number) for number in range(23))

    def test_a_pattern_takes_the_files_that_fit(self, folder: Path):
        assert set(read_corpus(f"{folder}/odd/*.py").texts) == {source(number) for number in range(1, 23, 2)}

    def test_the_library_is_without_its_tests_and_without_what_is_installed_beside_it(self):
        texts = read_corpus("stdlib").texts
        assert Path(json.__file__).read_text() in texts
        assert Path(np.__file__).read_text() not in texts
        assert not any("class MiscTests(unittest.TestCase)" in text for text in texts)

    def test_a_package_is_read_and_not_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        package = tmp_path / "site" / "explosive"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('imported')")
        (package / "more.py").write_text("raise SystemExit('run')")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        assert len(read_corpus("package:explosive").texts) == 2
        assert "explosive" not in sys.modules

    def test_rows_of_a_dataset_are_texts(self, tmp_path: Path):
        rows = [{"content": f"row {number}"} for number in range(5)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert read_corpus(f"dataset:{tmp_path}").texts == tuple(row["content"] for row in rows)

    def test_a_dataset_without_a_column_of_text_is_refused(self, tmp_path: Path):
        (tmp_path / "rows.jsonl").write_text('{"label": 1}\n{"label": 2}')
        with pytest.raises(ValueError, match="has the columns label; one of them must be text, content or code"):
            read_corpus(f"dataset:{tmp_path}")

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("", "is not valid"),
            ("/nowhere/at/all", "no folder or file matches"),
            ("package:no_such_package", "is not installed"),
            ("package:os.path", "is not installed"),
            ("dataset:no/such/dataset/anywhere", "cannot be loaded"),
        ],
    )
    def test_a_corpus_that_is_not_there_is_refused(self, name: str, says: str):
        with pytest.raises(ValueError, match=says):
            read_corpus(name)

    def test_a_folder_of_binaries_or_of_nothing_is_refused(self, tmp_path: Path):
        (tmp_path / "bin").mkdir()
        with pytest.raises(ValueError, match=r"has no texts \(skipped: none\)"):
            read_corpus(str(tmp_path / "bin"))
        for number in range(3):
            (tmp_path / "bin" / str(number)).write_bytes(b"\xff\x00" * (number + 1))
        with pytest.raises(ValueError, match=r"has no texts \(skipped: 3 undecodable\)"):
            read_corpus(str(tmp_path / "bin"))

    def test_the_split_goes_by_contents_and_not_by_names_or_order(self):
        texts = tuple(source(number) for number in range(23))
        train, apart = Corpus("", texts, {}).split(0.2)
        other = Corpus("", texts[::-1], {}).split(0.2)
        assert set(train) | set(apart) == set(texts)
        assert not set(train) & set(apart)
        assert (set(other[0]), set(other[1])) == (set(train), set(apart))
        share = sum(map(len, apart)) / sum(map(len, texts))
        assert 0.2 <= share < 0.2 + max(map(len, texts)) / sum(map(len, texts))

    def test_both_sides_have_a_text_whatever_the_share(self):
        for share in (0.001, 0.999):
            assert all(Corpus("", ("a", "b", "c"), {}).split(share))


class TestTokenizer:
    def test_any_text_comes_back(self, task: Text):
        bpe = train_bpe([source(0)], N_TOKENS)
        for text in ("größer 数\t\r\n  x", BOS, " if \0 else"):
            (tokens,) = encode_texts(bpe, [text])
            assert bpe.decode(tokens) == text
            assert 0 not in tokens

    def test_strings_that_are_typed_are_spelled_as_the_corpus_is(self):
        bpe = train_bpe([source(0)], N_TOKENS)
        for text in (source(1), BOS):
            assert wrapped(bpe).encode(text, add_special_tokens=False) == encode_texts(bpe, [text])[0]

    def test_another_process_trains_the_same(self, task: Text, tmp_path: Path):
        script = (
            f"from headway.data.text import Text; print(Text({task.corpus!r}, {N_TOKENS}).resolved().tokenizer_hash)"
        )
        environment = {"HEADWAY_CACHE": str(tmp_path / "another"), "PYTHONHASHSEED": "5", "PATH": ""}
        there = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert there.stdout.strip() == task.tokenizer_hash, there.stderr

    def test_a_string_that_is_split_is_refused_with_its_pieces(self):
        tokenizer = wrapped(train_bpe([source(0)], N_TOKENS))
        with pytest.raises(ValueError, match=r"' otherwise' is not one token .* split into "):
            one_token(tokenizer, " otherwise")

    def test_more_tokens_than_the_text_has_are_refused(self):
        with pytest.raises(ValueError, match=r"n_tokens: 2000 is too large for this text; it must be at most [0-9]+"):
            train_bpe(["a if b else c"], 2000)


class TestWindows:
    files = Files(np.arange(100, 116, dtype=np.uint16), np.array([7, 2, 3, 4]))

    def test_every_stretch_within_a_file_is_a_window_once(self):
        windows = Windows(self.files, 3)
        file, tokens = windows(torch.arange(len(windows)))
        starts = [*range(100, 105), 109, 112, 113]
        assert tokens.tolist() == [[start, start + 1, start + 2] for start in starts]
        assert file.tolist() == [0] * 5 + [2] + [3] * 2

    def test_one_after_another_they_do_not_overlap(self):
        windows = Windows(self.files, 3)
        assert windows(windows.non_overlapping())[1][:, 0].tolist() == [100, 103, 109, 112]


class TestTokenizedCorpus:
    def test_the_second_time_nothing_is_read_but_the_texts(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        first = Text(str(folder), n_tokens=N_TOKENS).tokenized_corpus
        monkeypatch.setattr(tokenized_corpus, "train_bpe", None)
        assert Text(str(folder), n_tokens=N_TOKENS).tokenized_corpus == first

    def test_tokens_are_the_texts_as_16_bits_on_disk(self, task: Text, folder: Path):
        both = read_corpus(str(folder)).split(task.held_out)
        for part, texts in zip(("train", "held_out"), both, strict=True):
            files = task.tokenized_corpus.files(part)
            assert isinstance(files.tokens, np.memmap)
            assert files.tokens.dtype == np.uint16
            ends = np.cumsum(files.lengths)
            assert tuple(text_of(task, files.tokens[a:b]) for a, b in zip([0, *ends], ends, strict=False)) == texts

    @pytest.mark.parametrize("stage", ["train_bpe", "_encode", "_hash"])
    def test_an_interrupted_preparation_leaves_nothing_half(
        self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, stage: str
    ):
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(tokenized_corpus, stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            Text(str(folder), n_tokens=N_TOKENS).resolved()
        assert not cache.exists() or not list(cache.iterdir())

    @pytest.mark.parametrize("name", ["train.npy", "tokenizer.json", "found.json", "held_out_lengths.npy"])
    def test_what_is_damaged_is_prepared_again(self, task: Text, cache: Path, name: str):
        (there,) = cache.iterdir()
        whole = (there / name).read_bytes()
        (there / name).write_bytes(whole[: len(whole) // 2])
        assert replace(task).resolved() == task
        assert (there / name).read_bytes() == whole

    def test_what_is_found_names_the_files_and_those_left_out(self, folder: Path):
        (folder / "empty.py").write_text("")
        metadata = Text(str(folder), n_tokens=N_TOKENS).tokenized_corpus.metadata
        assert metadata["skipped"] == {"undecodable": 0, "empty": 1, "duplicate": 0, "unreadable": 0}
        assert isinstance(Text(str(folder), n_tokens=N_TOKENS).tokenized_corpus, TokenizedCorpus)


class TestTask:
    def test_a_window_is_bos_and_neighbours_of_one_file(self, task: Text):
        batch = task.batch(seed=0, index=3, batch_size=13)
        assert (batch.inputs[:, 0] == 0).all()
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        train, _ = read_corpus(task.corpus).split(task.held_out)
        for file, row in zip(batch.info["file"].tolist(), batch.targets.tolist(), strict=True):
            # At its ends a window may cut a character in two.
            assert text_of(task, row).strip("�") in train[file]

    def test_evaluation_and_training_never_share_a_file(self, task: Text):
        held = task.evaluation_batch(seed=0, batch_size=13)
        _, apart = read_corpus(task.corpus).split(task.held_out)
        for row in held.targets.tolist():
            assert any(text_of(task, row).strip("�") in text for text in apart)

    def test_held_out_batches_are_each_token_once(self, task: Text):
        batches = list(task.held_out_batches(5))
        tokens = torch.cat([batch.targets for batch in batches]).flatten().tolist()
        files = task.tokenized_corpus.files("held_out")
        parts = np.split(files.tokens, np.cumsum(files.lengths)[:-1])
        assert tokens == np.concatenate([part[: len(part) // LENGTH * LENGTH] for part in parts]).tolist()

    def test_held_out_texts_are_the_files_that_are_kept_from_training(self, task: Text):
        assert sorted(task.held_out_texts()) == sorted(read_corpus(task.corpus).split(task.held_out)[1])

    def test_the_loss_on_all_that_is_held_out_is_that_of_each_token_once(self, task: Text):
        model = with_random_biases(HookedTransformer(recipe(task).model))
        rows = list(task.held_out_batches(1))
        losses = [task.loss(model(batch.inputs).detach(), batch) for batch in rows]
        assert held_out_loss(model, task) == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)

    def test_baselines_are_those_counted_by_hand(self, task: Text):
        files = task.tokenized_corpus.files("train")
        texts = [part.tolist() for part in np.split(files.tokens, np.cumsum(files.lengths)[:-1])]
        total = sum(map(len, texts))
        single = [1] * N_TOKENS
        pairs: dict[int, dict[int, int]] = {}
        for text in texts:
            for token in text:
                single[token] += 1
            for a, b in pairwise(text):
                after = pairs.setdefault(a, {})
                after[b] = after.get(b, 0) + 1
        unigram = [count / (total + N_TOKENS) for count in single]

        def bigram(a: int, b: int) -> float:
            after = pairs.get(a, {})
            if not after:
                return unigram[b]
            return (after.get(b, 0) + len(after) * unigram[b]) / (sum(after.values()) + len(after))

        assert sum(bigram(5, b) for b in range(N_TOKENS)) == pytest.approx(1)
        rows = torch.cat([batch.targets for batch in task.held_out_batches(100)]).tolist()
        told = [
            -math.log(unigram[row[0]] if i == 0 else bigram(row[i - 1], row[i])) for row in rows for i in range(LENGTH)
        ]
        plain = [-math.log(unigram[token]) for row in rows for token in row]
        known = task.baselines()
        assert known["unigram"] == pytest.approx(np.mean(plain))
        assert known["bigram"] == pytest.approx(np.mean(told))
        assert known["bigram"] < known["unigram"] < known["chance"] == math.log(N_TOKENS)

    def test_labels_show_spaces_and_line_breaks(self, task: Text):
        tokens = torch.tensor([[0, *(one_token(read_tokenizer(task.tokenizer_json), each) for each in (" ", "\n"))]])
        batch = task.evaluation_batch(0, 1)._replace(inputs=tokens)
        assert task.labels(batch) == [["BOS", " ", "\\n"]]

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("n_tokens", 256, "it must be from 257"),
            ("n_tokens", 65537, "to 65536"),
            ("length", 1, "at least 2"),
            ("held_out", 0.0, "a share"),
            ("held_out", 1.0, "a share"),
        ],
    )
    def test_fields_out_of_range_are_refused(self, field: str, value: float, says: str):
        with pytest.raises(ValueError, match=f"{field}: {value} is not valid.*{says}"):
            Text(**{field: value})  # pyright: ignore[reportArgumentType]

    def test_a_context_longer_than_every_file_is_refused(self, folder: Path):
        with pytest.raises(
            ValueError, match=r"length: 99999 is longer than every training file; the longest has [0-9]+"
        ):
            Text(str(folder), n_tokens=N_TOKENS, length=99999).resolved()


class TestRun:
    def test_a_run_keeps_its_tokenizer_and_its_hashes(self, task: Text, tmp_path: Path):
        run = train(**vars(recipe(replace(task, corpus_hash=None, tokenizer_hash=None))), out=tmp_path / "run")
        assert run.task == task
        model = run.model()
        text = " if größer else"
        assert model.to_string(model.to_tokens(text, prepend_bos=False)[0]) == text
        assert model(text).shape[-1] == N_TOKENS
        assert run.scores.loss.sizes["step"] == len(run.steps)

    def test_the_same_batches_come_from_the_cache_when_the_corpus_has_changed(self, task: Text, folder: Path):
        before = task.batch(seed=1, index=2, batch_size=3)
        (folder / "even" / "file_0.py").write_text("changed = 1")
        assert torch.equal(replace(task).batch(seed=1, index=2, batch_size=3).inputs, before.inputs)

    def test_a_corpus_that_has_changed_and_is_kept_nowhere_is_refused(
        self, task: Text, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "empty"))
        assert replace(task).resolved() == task
        monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "empty as well"))
        (folder / "even" / "file_0.py").write_text("changed = 1")
        with pytest.raises(ValueError, match=r"corpus_hash: .* has changed"):
            replace(task).resolved()

    def test_another_bpe_than_that_of_the_hash_is_refused(self, task: Text):
        with pytest.raises(ValueError, match="tokenizer_hash: abc… is not the hash of the BPE"):
            replace(task, tokenizer_hash="abc").resolved()

    def test_a_tokenizer_that_is_gone_or_altered_is_refused(self, task: Text, tmp_path: Path):
        path = tmp_path / "run"
        train(**vars(recipe(task)), out=path)
        kept = path / "tokenizer.json"
        kept.write_text(kept.read_text().replace('"Ġif"', '"Ġof"'))
        with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer that this network was trained with"):
            Run(path).model()
        kept.unlink()
        with pytest.raises(ValueError, match=r"tokenizer.json, which spells its tokens, cannot be read"):
            Run(path).model()
