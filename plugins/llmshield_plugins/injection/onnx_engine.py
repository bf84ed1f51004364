"""A text classifier from a local folder, through onnxruntime and tokenizers (the extra `onnx`). Nothing is downloaded.

A text is read in windows of tokens, half overlapping, since such models see 512 tokens and no more; its score is that of
the worst window. Everything runs in a thread; onnxruntime lets other threads work meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from llmshield.call import Call
from llmshield.errors import PluginError

from .engines import EngineSettings, OnnxSettings

_BATCH: Final = 8
_ATTACKS: Final = ("inject", "jailbreak", "malicious", "attack", "unsafe", "label_1", "prompt_attack")


class OnnxEngine:
    """One model, loaded."""

    def __init__(self, settings: EngineSettings, onnx: OnnxSettings) -> None:
        """Raises: PluginError naming the file or library that is missing."""
        self.settings = settings
        try:
            import numpy
            import onnxruntime
            import tokenizers
        except ImportError as error:
            raise PluginError(
                f"engines: {error.name} is missing; install the extra: pip install 'llmshield-sidecar[onnx]'"
            ) from error
        self._numpy: Any = numpy
        model, words = _file(onnx.path, "model.onnx"), _file(onnx.path, "tokenizer.json")
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(words))
        self._tokenizer.no_padding()
        # Cut into windows here; what the tokenizer's own file says of lengths would drop the rest of a text.
        self._tokenizer.enable_truncation(
            max_length=onnx.window, stride=_stride(self._tokenizer, onnx.window)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = onnx.threads
        self._session: Any = onnxruntime.InferenceSession(
            str(model), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name for one in self._session.get_inputs()}
        unknown = self._inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise PluginError(
                f"engines: {model} asks for {sorted(unknown)[0]!r}, which no text classifier does."
            )
        self._attack = _labels(onnx)
        self._most = onnx.most
        self._pad = _padding(self._tokenizer)

    async def rate(self, call: Call, texts: Sequence[str]) -> Sequence[float]:
        """Read the texts in a thread."""
        return await asyncio.to_thread(lambda: [self.score(text) for text in texts])

    def score(self, text: str) -> float:
        """How likely a text is an attack: the worst of its windows."""
        first = self._tokenizer.encode(text.encode("utf-8", "replace").decode())
        windows = [first, *first.overflowing]
        if len(windows) > self._most:
            step = (len(windows) - 1) / max(1, self._most - 1)
            windows = [windows[round(number * step)] for number in range(self._most)]
        return max(max(self._scores(windows[at : at + _BATCH])) for at in range(0, len(windows), _BATCH))

    def _scores(self, windows: Sequence[Any]) -> list[float]:
        numpy = self._numpy
        size = max(len(window.ids) for window in windows)

        def padded(rows: Sequence[Sequence[int]], filler: int) -> Any:
            return numpy.array([[*row, *[filler] * (size - len(row))] for row in rows], dtype=numpy.int64)

        given = {
            "input_ids": padded([window.ids for window in windows], self._pad),
            "attention_mask": padded([window.attention_mask for window in windows], 0),
            "token_type_ids": padded([window.type_ids for window in windows], 0),
        }
        logits = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        logits = numpy.asarray(logits, dtype=numpy.float64)
        if logits.ndim != 2 or not numpy.isfinite(logits).all():
            raise PluginError("engines: the model's output is no table of finite numbers.")
        if logits.shape[1] == 1:
            return [float(value) for value in 1 / (1 + numpy.exp(-logits[:, 0]))]
        chances = numpy.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        columns = [index for index in self._attack if index < logits.shape[1]] or [logits.shape[1] - 1]
        return [float(value) for value in chances[:, columns].sum(axis=1)]


def _file(folder: Path, name: str) -> Path:
    """A file of the folder, or of `onnx/` in it, where some exporters put the model."""
    for path in (folder / name, folder / "onnx" / name):
        if path.is_file():
            return path
    raise PluginError(
        f"engines: {folder} holds no {name}; export the model with `optimum-cli export onnx` first."
    )


def _labels(onnx: OnnxSettings) -> list[int]:
    """The columns that mean an attack. Raises: PluginError when the policy names a label that there is none of."""
    path = onnx.path / "config.json"
    stored: dict[str, Any] = orjson.loads(path.read_bytes()) if path.is_file() else {}
    names = {int(number): str(name) for number, name in stored.get("id2label", {}).items()}
    if onnx.attack:
        by_name = {name.lower(): number for number, name in names.items()}
        missing = [name for name in onnx.attack if name.lower() not in by_name]
        if missing:
            known = ", ".join(sorted(by_name)) or "none"
            raise PluginError(f"engines: {path} knows no label {missing[0]!r}; its labels: {known}.")
        return [by_name[name.lower()] for name in onnx.attack]
    return [number for number, name in names.items() if any(part in name.lower() for part in _ATTACKS)]


def _stride(tokenizer: Any, window: int) -> int:
    """Tokens that two windows share; special tokens take their part of a window."""
    return max(0, (window - int(tokenizer.num_special_tokens_to_add(False))) // 2)


def _padding(tokenizer: Any) -> int:
    for name in ("[PAD]", "<pad>", "<|endoftext|>"):
        number = tokenizer.token_to_id(name)
        if number is not None:
            return int(number)
    return 0
