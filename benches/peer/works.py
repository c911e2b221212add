"""Times the works of `hemlock-bench` and the same in PyTorch, in turns in one run.

    pip install torch timm
    python benches/peer/works.py --bench target/release/hemlock-bench
    python benches/peer/works.py head head-large --rounds 9

The script prints seconds of one run, with the same number of threads on both sides. Both sides are set up and run once
before anything is timed. Then they take turns, and a ratio is that of two consecutive runs. PyTorch does the following:

- works with networks: the fastest of six ways, which the table names: eager, and compiled by `torch.compile` with two
  modes, each with channels first and last.
- extraction*, image-gradient*: It runs the same network after `eval()`, with all images in one batch.
- feature-matching*: Adam moves all images at once, clamped to [0, 1], with as many passes. Hemlock runs the whole
  stage.
- simclr-*, moco-*: It computes both views, the loss, the gradient, and a step of AdamW. Hemlock augments as well.
- head: `torch.optim.LBFGS` with its line search runs in double precision until it reaches the same gradient norm.
- gradient-canceling: Poisons are leaves. The loss is the squared norm of the training gradient, whose graph is kept.
  Gradient descent takes its steps after a second backward pass, until the same residual. The part of the clean samples
  is computed once. The rate is the fastest of 1, 3, 4, 6, 8 and 12 (divided by the largest coordinate of the first
  gradient). Hemlock's solver is L-BFGS.
- gradient-canceling-adam: The same, with Adam on both sides.
- bilevel: Every step retrains the head by L-BFGS from the last one, and solves with its Hessian by conjugate gradients,
  to the same tolerances. Each product with the Hessian is a second backward pass. Both sides must end with the same
  error.
- artifact-write, artifact-read: `torch.save` and synchronisation, and `torch.load`. Neither computes or checks digests.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from heads import head, objective, train
from networks import Moco, ResNet, Simclr, Vit
from serving import Served, given
from torch.nn import functional as F

# The tolerances in a step of the bilevel attack, as in crates/attack/src/bilevel.rs.
INNER_TOLERANCE, SOLVE_TOLERANCE = 1e-5, 1e-3


def pixels(given, layout=torch.contiguous_format):
    return torch.rand(given["images"], 3, given["side"], given["side"]).contiguous(memory_format=layout)


def frozen(given, layout=torch.contiguous_format):
    """The network of a work, with random weights."""
    widths = {"vit-small-p16": (384, 6), "vit-base-p16": (768, 12)}
    if given["arch"] in widths:
        width, heads = widths[given["arch"]]
        net = Vit(width, heads=heads, patch=16, side=given["side"])
    elif given["arch"] == "convnext-tiny":
        net = timm.create_model("convnext_tiny", num_classes=0)
    elif given["arch"] == "clip-resnet50":
        net = timm.create_model("resnet50_clip", num_classes=1024)
    else:
        net = ResNet(given["arch"])
    return net.eval().requires_grad_(False).to(memory_format=layout)


def same(function):
    return function


def extraction(given, layout=torch.contiguous_format, compiled=same):
    net, images = compiled(frozen(given, layout)), pixels(given, layout)

    @torch.no_grad()
    def run():
        net(images)

    return run


def image_gradient(given, layout=torch.contiguous_format, compiled=same):
    net, images = frozen(given, layout), pixels(given, layout).requires_grad_()
    half_square = compiled(lambda x: net(x).square().sum() / 2)

    def run():
        torch.autograd.grad(half_square(images), images)

    return run


def feature_matching(given, layout=torch.contiguous_format, compiled=same):
    net, start = frozen(given, layout), pixels(given, layout)
    wanted = net(pixels(given))
    loss = compiled(lambda x: (net(x) - wanted).square().sum())

    def run():
        images = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([images], 0.02)
        for _ in range(given["passes"]):
            optimizer.zero_grad()
            loss(images).backward()
            optimizer.step()
            images.data.clamp_(0, 1)

    return run


def ways():
    """Every way to prepare a work with a network, by its name."""
    tuned = lambda function: torch.compile(function, mode="max-autotune-no-cudagraphs")
    layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    return {
        f"{how}, {name}": {"layout": layout, "compiled": compiled}
        for how, compiled in {"eager": same, "compiled": torch.compile, "max-autotune": tuned}.items()
        for name, layout in layouts.items()
    }


def fastest(prepare):
    """Prepares a work in every way, and takes the one whose best run of three, after two others, is the fastest."""

    def prepared(given):
        runs = {name: prepare(given, **way) for name, way in ways().items()}
        timed = {}
        for name, run in runs.items():
            run(), run()
            timed[name] = min(seconds(run) for _ in range(3))
        name = min(timed, key=timed.get)
        runs[name].way = name
        return runs[name]

    return prepared


def pretraining(method):
    def prepare(given, layout=torch.contiguous_format, compiled=same):
        model, images = method(given["arch"]).to(memory_format=layout), pixels(given, layout)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-3)
        loss_of = compiled(model.loss)

        def run():
            loss = loss_of(images, images.flip(3))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.after_step()

        return run

    return prepare


class Poisons:
    """Poisoned features within a ball, with their labels."""

    def __init__(self, given):
        count = given["poisons"]
        self.z = given["features"][:count].clone().requires_grad_()
        self.labels, self.radius = given["labels"][:count], given["radius"]
        self.project()

    @torch.no_grad()
    def project(self):
        self.z.mul_((self.radius / self.z.norm(dim=1, keepdim=True)).clamp(max=1))



class Adam(Poisons):
    """Moved by Adam with a cosine schedule."""

    def __init__(self, given):
        super().__init__(given)
        # Hemlock's Adam does not depend on the scale of gradients.
        self.optimizer = torch.optim.Adam([self.z], given["step"], eps=1e-30)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, given["steps"])

    def step(self, gradient):
        self.z.grad = gradient
        self.optimizer.step()
        self.schedule.step()
        self.project()


class GradientDescent(Poisons):
    """Moved against the gradient, at a fixed rate."""

    FIRST = 3.0
    rate = None

    @torch.no_grad()
    def step(self, gradient):
        self.rate = self.rate or self.FIRST / gradient.abs().max()
        self.z.sub_(self.rate * gradient)
        self.project()


def clean(given):
    return given["features"][: given["clean"]], given["labels"][: given["clean"]]


def gradient_canceling(moved):
    def prepare(given):
        target, decay = given["target"].requires_grad_(), given["weight_decay"]

        def gradient_sum(z, labels, **how):
            return torch.autograd.grad(len(z) * objective(target, z, labels, decay), target, **how)[0]

        def run():
            of_clean = gradient_sum(*clean(given))
            poisons = moved(given)
            for _ in range(given["steps"]):
                left = (of_clean + gradient_sum(poisons.z, poisons.labels, create_graph=True)).norm() / of_clean.norm()
                if left.item() <= given["residual"]:
                    return
                poisons.step(torch.autograd.grad(left.square() / 2, poisons.z)[0])
            raise SystemExit(f"a residual of {left.item()} was left")

        return run

    return prepare


def smoothed_error(head, z, labels, temperature):
    logits = F.linear(z, head[:, :-1], head[:, -1])
    own = F.one_hot(labels, len(head)).bool()
    rival = logits.masked_fill(own, -torch.inf).amax(1)
    return torch.sigmoid((rival - logits[own]) / temperature).mean()


def solve(product, right):
    """Runs conjugate gradients, from zero, until the residual is small relative to the right side."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual.square().sum()
    while square.sqrt() > SOLVE_TOLERANCE * right.norm():
        along = product(direction)
        length = square / (direction * along).sum()
        solution += length * direction
        residual -= length * along
        last, square = square, residual.square().sum()
        direction = residual + square / last * direction
    return solution


def bilevel(given):
    decay = given["weight_decay"]
    held_out = given["features"][given["clean"] :], given["labels"][given["clean"] :]

    def run():
        poisons, head, error = Adam(given), given["head"], 0
        for step in range(given["steps"] + 1):
            labels = torch.cat([clean(given)[1], poisons.labels])
            z = torch.cat([clean(given)[0], poisons.z])
            head = train(head, z.detach(), labels, decay, INNER_TOLERANCE).requires_grad_()
            loss = smoothed_error(head, *held_out, given["temperature"])
            error = max(error, loss.item())
            if step == given["steps"]:
                break
            [by_head] = torch.autograd.grad(loss, head)
            [gradient] = torch.autograd.grad(objective(head, z, labels, decay), head, create_graph=True)
            product = lambda v: torch.autograd.grad(gradient, head, v, retain_graph=True)[0]
            solution = solve(product, by_head)
            # The poisons descend, and the error is to rise.
            poisons.step(torch.autograd.grad((gradient * solution).sum(), poisons.z)[0])
            head = head.detach()
        if abs(error - given["error"]) > 0.01 * given["error"]:
            raise SystemExit(f"the error is {error:.4f} here, and {given['error']:.4f} there")

    return run


def array_file(given, folder):
    path = folder / "features.pt"
    features = torch.from_numpy(np.random.default_rng(0).random((given["samples"], given["dim"]), dtype=np.float32))

    def write():
        with open(path, "wb") as file:
            torch.save(features, file)
            os.fsync(file.fileno())

    write()
    return path, write


def artifact_write(given):
    return array_file(given, given["folder"])[1]


def artifact_read(given):
    path, _ = array_file(given, given["folder"])
    return lambda: torch.load(path)


PEERS = {
    **{
        f"{work}{net}": fastest(prepare)
        for net in ("", "-resnet18", "-vit-small", "-vit-base")
        for work, prepare in (
            ("extraction", extraction), ("image-gradient", image_gradient), ("feature-matching", feature_matching)
        )
    },
    **{
        f"{work}-{net}": fastest(prepare)
        for net in ("convnext-tiny", "clip-resnet50")
        for work, prepare in (("extraction", extraction), ("image-gradient", image_gradient))
    },
    **{
        f"{method}-{net}": fastest(pretraining(model))
        for net in ("resnet20", "resnet18")
        for method, model in (("simclr", Simclr), ("moco", Moco))
    },
    "head": head,
    "head-large": head,
    "gradient-canceling": gradient_canceling(GradientDescent),
    "gradient-canceling-adam": gradient_canceling(Adam),
    "bilevel": bilevel,
    "artifact-write": artifact_write,
    "artifact-read": artifact_read,
}
# Works that are left out unless they are named, because a run takes minutes.
LONG = ["head-large"]


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds(bench, work, count):
    """Returns the seconds of Hemlock and of PyTorch in every round, and PyTorch's way if it has several."""
    with tempfile.TemporaryDirectory() as folder, Served(bench, work) as ours:
        peer = PEERS[work](given(bench, work, Path(folder)))
        ours.seconds(), peer()
        return [(ours.seconds(), seconds(peer)) for _ in range(count)], getattr(peer, "way", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(PEERS)}; where none is named, all but {', '.join(LONG)}"
    parser.add_argument("works", nargs="*", metavar="WORK", help=names)
    parser.add_argument("--bench", default="target/release/hemlock-bench", help="the binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if unknown := set(args.works) - set(PEERS):
        parser.error(f"there is no peer of {', '.join(sorted(unknown))}; expected some of {', '.join(PEERS)}")
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    bench = str(Path(args.bench).resolve())

    print(f"PyTorch {torch.__version__}, {args.threads} threads, {args.rounds} rounds: median seconds of a run;")
    print("times as fast: PyTorch's seconds over Hemlock's, median, smallest to largest\n")
    print("| work | Hemlock | PyTorch | times as fast | PyTorch's way |\n| --- | --- | --- | --- | --- |")
    for work in args.works or [work for work in PEERS if work not in LONG]:
        timed, way = rounds(bench, work, args.rounds)
        ours, peer = (statistics.median(side) for side in zip(*timed))
        ratios = sorted(b / a for a, b in timed)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {work} | {ours:.3f} | {peer:.3f} | {ratio} | {way} |", flush=True)


if __name__ == "__main__":
    main()
