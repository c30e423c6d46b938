"""How fast this machine trains, compared with other implementations where they are installed.

The contestants take turns (ours, theirs, ours, theirs, ...), and ratios are taken pair by pair, since the speed of machines
drifts. A step takes log-mel features, draws masks, and does forward, joint loss, backward and optimiser.
"""

import contextlib
import importlib
import io
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ssast_lab import audio, data, files, masking, objectives
from ssast_lab.config import MaskConfig, RunConfig, model_config, pretrain_config
from ssast_lab.learning.precision import fast_bf16
from ssast_lab.learning.pretrain import draw_masks, draw_queried, pretrain
from ssast_lab.model import SSAST
from ssast_lab.patches import to_device_of
from ssast_lab.tables import text_table

TrainingStep = Callable[[Tensor], Tensor]  # (B, T, F) log-mel -> () loss
Contestant = tuple[Callable[[], TrainingStep], Tensor]


def bench(
    model: str = "tiny-patch",
    batch: int = 8,
    masks: int = 400,
    sampled: int = 100,
    repeats: int = 5,
    official: Path | None = None,
    timm: Path | None = None,
    audyn: bool = False,
    official_batch: int | None = None,
    feed: Path | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure training steps on this machine and print a table.

    Args:
        model: the preset whose joint training step is measured.
        batch: clips of 10.24 s in a step.
        masks: patches hidden in each clip.
        sampled: hidden patches that are predicted in a sampled step; 0: measure none.
        repeats: measured steps of each contestant.
        official: a copy of the official repository (YuanGongND/ssast) to compare with.
        timm: the folder where timm 0.4.5, which the official code needs, is installed, if not in this environment.
        audyn: compare with Audyn (pip install audyn), which must be in this environment.
        official_batch: clips in a step of the other implementations, where their memory is too small for as many.
        feed: a folder of sound: also compare training from its files with training from memory.
        out: a JSON file to write all figures to.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    contestants = _contestants(model, masks, sampled, device, batch, official_batch or batch, official, timm, audyn)
    seconds, peaks = _take_turns(contestants, repeats, device)
    figures: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor() or platform.machine()} CPU",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "model": model, "batch": batch, "masks": masks,
    }  # fmt: skip
    print(f"{model}, batch {batch}, {masks} of 512 patches hidden, {figures['machine']}, torch {torch.__version__}\n")
    best = "ours, bf16, compiled" if "ours, bf16, compiled" in seconds else list(seconds)[min(1, fast_bf16(device))]
    fastest = next((name for name in seconds if name.endswith("predicted")), best)
    figures["steps"] = _compared(
        {name: len(fbank) for name, (_, fbank) in contestants.items()}, seconds, peaks, fastest
    )
    figures |= _arithmetic(model, masks, device, best, figures["steps"][best]["clips_per_second"])
    figures["parts"] = _parts(masks, device, repeats)
    if feed:
        figures["feed"] = _feed(model, masks, batch, feed)
    if out:
        files.write(out, files.to_json(figures, indent=1) + "\n")
    return figures


def _contestants(
    model: str,
    masks: int,
    sampled: int,
    device: torch.device,
    batch: int,
    other_batch: int,
    official: Path | None,
    timm: Path | None,
    audyn: bool,
) -> dict[str, Contestant]:
    """Name -> (the function that builds its training step, the batch that it is given)."""
    fbank, other = (torch.randn(clips, 1024, 128, device=device) * 0.5 for clips in (batch, other_batch))
    ours = partial(_ours, model, masks, device)
    contestants: dict[str, Contestant] = {"ours, fp32": (partial(ours, bf16=False), fbank)}
    if fast_bf16(device):
        contestants["ours, bf16"] = (partial(ours, bf16=True), fbank)
        if device.type == "cuda":
            contestants["ours, bf16, compiled"] = (partial(ours, bf16=True, compiled=True), fbank)
    if sampled:
        fast = fast_bf16(device)
        contestants[f"ours, {sampled} of {masks} predicted"] = (partial(ours, bf16=fast, sampled=sampled), fbank)
    if official:
        published = partial(_official, official, timm, model, masks, device)
        contestants["official, fp32 as published"] = (published, other)
        if device.type == "cuda":
            contestants["official, TF32"] = (partial(published, tf32=True), other)
            contestants["official, bf16 autocast"] = (partial(published, bf16=True), other)
    if audyn:
        contestants["Audyn, fp32"] = (partial(_audyn, model, masks, device), other)
        if fast_bf16(device):
            contestants["Audyn, bf16 autocast"] = (partial(_audyn, model, masks, device, bf16=True), other)
    return contestants


def _take_turns(
    contestants: dict[str, Contestant], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Name -> seconds of each step, and name -> the most bytes of GPU memory that a step took: with its own weights, gradients
    and optimiser, and without those of the other contestants."""

    def allocated() -> int:
        return torch.cuda.memory_allocated() if device.type == "cuda" else 0

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    steps: dict[str, TrainingStep] = {}
    held: dict[str, int] = {}  # bytes that a contestant holds between its steps
    for name, (build, fbank) in contestants.items():
        before = allocated()
        steps[name] = build()
        steps[name](fbank).item()  # the first step makes the optimiser's state
        held[name] = allocated() - before
    for turn in range(repeats + 1):  # the first one is warm-up
        for name, (_, fbank) in contestants.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            of_others = allocated() - held[name]
            begin = time.perf_counter()
            steps[name](fbank).item()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
            peaks[name] = torch.cuda.max_memory_allocated() - of_others if device.type == "cuda" else 0
    return seconds, peaks


def _compared(
    clips: dict[str, int], seconds: dict[str, list[float]], peaks: dict[str, int], best: str
) -> dict[str, dict[str, float]]:
    """The figures of each contestant, printed as a table; ``clips``: in a step of each."""
    figures: dict[str, dict[str, float]] = {}
    rows = []
    for name, times in seconds.items():
        rate = clips[name] / statistics.median(times)
        ratios = [clips[best] / a / (clips[name] / b) for a, b in zip(seconds[best], times, strict=True)]
        faster = statistics.median(ratios)
        row = {"clips_per_second": rate, f"{best} is faster by": faster, "least": min(ratios), "most": max(ratios)}
        if peaks[name]:
            row["clips_per_GB"] = clips[name] / (peaks[name] / 1e9)
        memory = f"{row['clips_per_GB']:.2f}" if peaks[name] else "–"
        rows.append([name, f"{rate:.2f}", f"{faster:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})", memory])
        figures[name] = row
    print(*text_table(["", "clips/s", f"{best} is faster by", "clips per GB of memory"], rows), sep="\n")
    return figures


def _arithmetic(model: str, masks: int, device: torch.device, best: str, clips_per_second: float) -> dict[str, float]:
    """How much of the machine's rate of matrix products a training step reaches."""
    operations = count_operations(model, masks)
    matrix = matrix_rate(device, torch.bfloat16 if fast_bf16(device) else torch.float32)
    reached = operations * clips_per_second
    print(
        f"\n  one clip takes {operations / 1e9:.1f} GFLOP (counted: matrix products of forward and backward); {best} does "
        f"{reached / 1e12:.3f} TFLOP/s,\n  {reached / matrix:.1%} of the {matrix / 1e12:.2f} TFLOP/s of one large matrix product"
    )
    return {"operations_per_clip": operations, "matrix_rate": matrix, "share_of_matrix_rate": reached / matrix}


def _ours(
    name: str, masks: int, device: torch.device, bf16: bool, compiled: bool = False, sampled: int = 0
) -> TrainingStep:
    model = SSAST(model_config(name)).to(device)
    if compiled:
        for block in model.encoder.blocks:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    mask = MaskConfig(masks, (3, 5) if name.endswith("patch") else None)
    turn = iter(range(1_000_000))

    def step(fbank: Tensor) -> Tensor:
        number = next(turn)
        hidden = draw_masks(model.grid, mask, len(fbank), 0, number)
        queried = draw_queried(masks, sampled, len(fbank), 0, number) if sampled else None
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            guess = model(fbank, hidden, queried)
        asked = None if queried is None else to_device_of(queried, fbank)
        losses = objectives.joint(guess, model.targets(fbank, hidden), asked=asked)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        return losses.total.detach()

    return step


def _official(repository: Path, timm: Path | None, name: str, masks: int, device: torch.device, tf32: bool = False,
              bf16: bool = False) -> TrainingStep:  # fmt: skip
    """The step of the official ``src/traintest_mask.py``: two forwards with different masks."""
    size, kind = name.split("-")
    shape = (16, 16) if kind == "patch" else (128, 2)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        official = _official_module(repository, timm).ASTModel(
            fshape=shape[0], tshape=shape[1], fstride=shape[0], tstride=shape[1], input_fdim=128, input_tdim=1024,
            model_size=size, pretrain_stage=True,
        )  # fmt: skip
    model = nn.DataParallel(official, device_ids=[0] if device.type == "cuda" else None).to(device)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-4, weight_decay=5e-7, betas=(0.95, 0.999))

    def step(fbank: Tensor) -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            _, nce = model(fbank, "pretrain_mpc", mask_patch=masks, cluster=kind == "patch")
            mse = model(fbank, "pretrain_mpg", mask_patch=masks, cluster=kind == "patch")
        loss = nce.mean() + 10 * mse.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return loss.detach()

    return step


def _official_module(repository: Path, timm: Path | None) -> Any:
    """The official model file, with stand-ins for imports that a current PyTorch no longer has."""
    import collections.abc

    six = types.ModuleType("torch._six")
    vars(six).update(container_abcs=collections.abc, int_classes=int, string_classes=str, inf=float("inf"))
    sys.modules.setdefault("torch._six", six)
    sys.modules.setdefault("matplotlib", types.ModuleType("matplotlib"))
    sys.modules.setdefault("matplotlib.pyplot", types.ModuleType("matplotlib.pyplot"))
    sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"]  # type: ignore[attr-defined]
    for folder in (timm, repository / "src" / "models"):
        if folder and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module("ast_models")


def _audyn(name: str, masks: int, device: torch.device, bf16: bool = False) -> TrainingStep:
    """Audyn's multi-task model and losses, with its fast masker. It runs two forwards as well."""
    ssast = importlib.import_module("audyn.models.ssast")
    criterion = importlib.import_module("audyn.criterion.ssast")
    config = model_config(name)
    embedding = ssast.PositionalPatchEmbedding(
        config.width, kernel_size=config.patch, stride=config.patch, insert_cls_token=True, insert_dist_token=True,
        n_bins=128, n_frames=1024,
    )  # fmt: skip
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, 4 * config.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    backbone = nn.TransformerEncoder(layer, config.depth, nn.LayerNorm(config.width), enable_nested_tensor=False)
    cluster = dict(min_cluster=3) if name.endswith("patch") else dict(min_cluster=1, max_cluster=2)
    masker = ssast.FastMasker(config.width, num_masks=masks, sample_wise=True, **cluster)
    values = config.grid.values
    model = ssast.MultiTaskSSASTMPM(
        embedding, masker, backbone, ssast.MLP(config.width, values), ssast.MLP(config.width, values)
    ).to(device)
    reconstruct, classify = criterion.ReconstructionLoss(), criterion.ClassificationLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=5e-7, betas=(0.95, 0.999))

    def step(fbank: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            drawn, picked = model(fbank.transpose(1, 2))
            loss = 10 * reconstruct(*drawn) + classify(*picked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def count_operations(name: str, masks: int) -> int:
    """Floating-point operations (two for each multiply-add) in the matrix products of one clip's forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = SSAST(model_config(name))
    fbank, mask = torch.zeros(1, 1024, 128), draw_masks(model.grid, MaskConfig(masks, None), 1, 0, 0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # not every fused kernel is counted
        objectives.joint(model(fbank, mask), model.targets(fbank, mask)).total.backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """FLOP/s of a large square matrix product: the median of as many as fit into ``seconds``, at least five."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        (a @ b)[0, 0].item()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times)


def _parts(masks: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Name -> seconds of features and masks, and of the loops that they replace; and the ratios."""
    import torchaudio

    grid, generator = model_config("tiny-patch").grid, torch.Generator().manual_seed(0)
    waveforms = torch.randn(64, 10 * audio.SAMPLE_RATE, device=device) * 0.1

    def kaldi_loop() -> None:
        for waveform in waveforms:
            torchaudio.compliance.kaldi.fbank(
                waveform[None], htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
                num_mel_bins=128, dither=0.0, frame_shift=10,
            )  # fmt: skip

    def published_masks() -> None:
        for _ in range(256):
            _published_mask(grid.columns, grid.count, masks)

    tasks: dict[str, Callable[[], Any]] = {
        "64 clips of 10 s to log-mel": lambda: audio.kaldi_fbank(waveforms),
        "the same, torchaudio clip by clip": kaldi_loop,
        "256 cluster masks": lambda: masking.cluster_mask(grid, masks, generator=generator, batch=256),
        "the same, the published loop": published_masks,
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - begin)
    figures = {name: statistics.median(values) for name, values in times.items()}
    names = list(figures)
    print()
    for ours, theirs in ((names[0], names[1]), (names[2], names[3])):
        ratio = statistics.median(b / a for a, b in zip(times[ours], times[theirs], strict=True))
        figures[f"{ours}: ratio"] = ratio
        print(f"  {ours}: {figures[ours] * 1e3:.1f} ms; {theirs}: {figures[theirs] * 1e3:.1f} ms; {ratio:.1f}x")
    return figures


def _published_mask(columns: int, count: int, hidden: int) -> Tensor:
    """One mask as the official code draws it: block after block, until more than enough patches are hidden."""
    import random

    size, chosen = random.randrange(3) + 3, list[int]()
    while len(set(chosen)) <= hidden:  # it counts anew after every block
        start = random.randrange(count)
        block = [start + columns * down + right for down in range(size) for right in range(size)]
        chosen = chosen + [patch for patch in block if 0 < patch < count]
    return torch.tensor(list(set(chosen))[:hidden])


def _feed(name: str, masks: int, batch: int, folder: Path) -> dict[str, float]:
    """Clips per second of the training loop, from memory and from files in turn."""
    recipe = pretrain_config(f"modern-{name}-{masks}", train=str(folder), held_out_clips=2)
    workers = max(torch.get_num_threads(), 2)
    ahead = data.AHEAD * workers
    steps = 3 * ahead
    recipe = replace(
        recipe, training=replace(recipe.training, steps=steps, batch=batch, warmup=1, evaluate_every=steps)
    )
    rates: dict[str, list[float]] = {"memory": [], "files": []}
    with TemporaryDirectory() as place:
        for turn in range(3):
            for kind in rates:
                run = RunConfig(
                    f"{place}/{turn}-{kind}", in_memory=kind == "memory", workers=workers, checkpoint_every=steps
                )
                rates[kind].append(steady_rate([step.seconds for step in pretrain(recipe, run)], batch, ahead))
    figures = {kind: statistics.median(values) for kind, values in rates.items()}
    figures["files / memory"] = statistics.median(f / m for f, m in zip(rates["files"], rates["memory"], strict=True))
    print(
        f"\n  from memory {figures['memory']:.1f} clips/s, from files {figures['files']:.1f}: {figures['files / memory']:.1%}"
    )
    return figures


def steady_rate(seconds: Sequence[float], batch: int, ahead: int) -> float:
    """Clips per second of a run whose steps ended at these ``seconds``. The first ``ahead`` batches were read before training
    began and do not count. Later ones arrive in bursts, from all workers at once, so that all steps are timed together."""
    return batch * (len(seconds) - ahead) / (seconds[-1] - seconds[ahead - 1])
