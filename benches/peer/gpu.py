"""Times the works of `hemlock-bench` that have a GPU's size, and the same in PyTorch, eager and compiled, in one run.

    python gpu.py --bench ./hemlock-bench                     both on the first NVIDIA GPU; needs torch
    python gpu.py --bench ./hemlock-bench --output gpu.jsonl  continues where it was stopped
    python gpu.py --bench ./hemlock-bench --device flex --images 8 --rounds 1    a trial on the processor

For every work, it writes a line of JSON to the output, and a row of a table to the screen. Both sides are set up and
run once before anything is timed, so that kernels are compiled and chosen. Then they take turns. PyTorch is timed as it
is (`eager`), with channels last and without, and compiled (`torch.compile`), in the layout that was the faster of the
two. A run ends when the GPU is done. If a work fails, the others continue, and the exit code is 1.

Precision: burn's fastest kernels multiply in TF32 (10 bits of mantissa) on the GPU's tensor cores, and PyTorch is
allowed to do the same. With `--float32`, PyTorch multiplies in float32, and Hemlock as before.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from heads import head
from networks import Decoder, Moco, ResNet, Simclr, Vit
from serving import Served, given
from torch import nn


class Works:
    """What PyTorch does instead of each work. `compiled` compiles a function, or leaves it as it is."""

    def __init__(self, device, layout, compiled):
        self.device, self.layout, self.compiled = device, layout, compiled

    def pixels(self, count):
        return torch.rand(count, 3, 32, 32, device=self.device).contiguous(memory_format=self.layout)

    def place(self, net):
        return net.to(self.device, memory_format=self.layout)

    def frozen(self, arch):
        vits = {"vit-small-p4": {}, "vit-base-p4": {"width": 768, "heads": 12}}
        net = Vit(**vits[arch]) if arch in vits else ResNet(arch)
        return self.place(net).eval().requires_grad_(False)

    def extraction(self, given):
        net, images = self.compiled(self.frozen(given["arch"])), self.pixels(given["images"])

        @torch.no_grad()
        def run():
            # As much at a time as fits into any card; features go back to the host, as ours do.
            return [net(part).cpu() for part in images.split(256)]

        return run

    def image_gradient(self, given):
        net, images = self.frozen(given["arch"]), self.pixels(given["images"])
        half_square = self.compiled(lambda x: net(x).square().sum() / 2)

        def run():
            parts = [part.requires_grad_() for part in images.split(256)]
            return [torch.autograd.grad(half_square(part), part)[0].cpu() for part in parts]

        return run

    def matching(self, given):
        """Moves all images at once by Adam, clamped to [0, 1], with as many passes as either of our works."""
        net, start = self.frozen(given["arch"]), self.pixels(given["images"])
        wanted = net(self.pixels(given["images"]))
        loss = self.compiled(lambda x: (net(x) - wanted).square().sum())

        def run():
            images = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([images], 0.02)
            for _ in range(given["passes"]):
                optimizer.zero_grad()
                loss(images).backward()
                optimizer.step()
                images.data.clamp_(0, 1)
            return images.detach().cpu()

        return run

    def decoder(self, given):
        net, extractor = self.place(Decoder(512)), self.frozen(given["arch"])
        images = self.pixels(given["images"])
        with torch.no_grad():
            features = torch.cat([extractor(part) for part in images.split(256)])
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)

        def objective(z, x):
            made = net(z)
            return nn.functional.mse_loss(made, x) + 0.03 * nn.functional.mse_loss(extractor(made), z)

        objective = self.compiled(objective)

        def run():
            for z, x in zip(features.split(given["batch"]), images.split(given["batch"])):
                optimizer.zero_grad()
                objective(z, x).backward()
                optimizer.step()

        return run

    def head(self, given):
        """In double precision, which the tolerance of the gradient takes."""
        placed = {name: given[name].to(self.device) for name in ("features", "labels")}
        return head(given | placed)

    def training(self, model):
        def prepare(given):
            net = self.place(model(given["arch"]))
            images = self.pixels(given["images"])
            optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 2e-3)
            loss = self.compiled(net.loss)

            def run():
                value = loss(images, images.flip(3))
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                return net.after_step()

            return run

        return prepare

    def all(self):
        simclr, moco = self.training(Simclr), self.training(Moco)
        return {
            "gpu-extraction-resnet18": self.extraction,
            "gpu-extraction-resnet50": self.extraction,
            "gpu-extraction-vit-small": self.extraction,
            "gpu-extraction-vit-base": self.extraction,
            "gpu-image-gradient-resnet18": self.image_gradient,
            "gpu-image-gradient-resnet50": self.image_gradient,
            "gpu-image-gradient-vit-small": self.image_gradient,
            "gpu-image-gradient-vit-base": self.image_gradient,
            "gpu-simclr-resnet18": simclr,
            "gpu-moco-v3-resnet18": moco,
            "gpu-matching-resnet18": self.matching,
            "gpu-refinement-resnet18": self.matching,
            "gpu-decoder-resnet18": self.decoder,
            "gpu-head": self.head,
        }


def seconds(run, device):
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def measure(args, work, device):
    """Returns the medians of every way that PyTorch has, and the ratios of consecutive runs."""
    options = ["--device", args.device] + (["--images", str(args.images)] if args.images else [])
    layouts = {"": torch.contiguous_format, ", channels last": torch.channels_last}
    ways = {}
    with tempfile.TemporaryDirectory() as folder:
        numbers = given(args.bench, work, Path(folder), options)

        def prepared(layout, compiled):
            run = Works(device, layout, compiled).all()[work](numbers)
            for _ in range(3):
                run()
            return run

        for name, layout in layouts.items():
            ways["eager" + name] = prepared(layout, lambda f: f)
        if not args.no_compile:
            name = min(layouts, key=lambda name: seconds(ways["eager" + name], device))
            torch._dynamo.reset()
            ways["compiled" + name] = prepared(layouts[name], lambda f: torch.compile(f, mode=args.mode))
        with Served(args.bench, work, options) as ours:
            ours.seconds(), ours.seconds()
            rounds = []
            for _ in range(args.rounds):
                taken = {"hemlock": ours.seconds()}
                rounds.append(taken | {way: seconds(run, device) for way, run in ways.items()})
    medians = {way: statistics.median(taken[way] for taken in rounds) for way in rounds[0]}
    ratios = {way: statistics.median(taken[way] / taken["hemlock"] for taken in rounds) for way in ways}
    return {"work": work, "seconds": medians, "times_as_fast": ratios}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help="all, where none is named")
    parser.add_argument("--bench", default="target/release/hemlock-bench", help="the binary")
    device_help = "Hemlock's device; PyTorch uses a GPU with `cuda`, and the processor otherwise"
    parser.add_argument("--device", default="cuda", help=device_help)
    parser.add_argument("--images", type=int, help="images or samples of every work, instead of what keeps a GPU busy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="PyTorch multiplies in float32 instead of TF32")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--mode", default="default", help="of torch.compile, such as max-autotune")
    parser.add_argument("--output", type=Path, help="a file of JSON lines; what it has is not measured again")
    args = parser.parse_args()
    args.bench = str(Path(args.bench).resolve())
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no NVIDIA GPU; `--device flex --images 8 --rounds 1` tries this on the processor")
    device = torch.device("cuda" if args.device == "cuda" else "cpu")
    known = Works(device, torch.contiguous_format, None).all()
    if unknown := set(args.works) - set(known):
        parser.error(f"there is no work {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not args.float32
    torch.set_num_threads(os.cpu_count())

    card = torch.cuda.get_device_name() if device.type == "cuda" else "the processor"
    about = {"device": args.device, "card": card, "torch": torch.__version__, "tf32": not args.float32}
    about["images"] = args.images
    lines = args.output.read_text().splitlines() if args.output and args.output.exists() else []
    done = {found["work"]: found for found in map(json.loads, lines) if about.items() <= found.items()}
    tf32 = "off" if args.float32 else "on"
    print(f"{card}, PyTorch {torch.__version__}, TF32 {tf32}: median seconds of {args.rounds} runs,")
    print("and PyTorch's over Hemlock's\n")
    print("| work | Hemlock | eager | compiled | times as fast as eager | as compiled |\n" + "| --- " * 6 + "|")
    failed = []
    for work in args.works or known:
        found = done.get(work)
        if not found:
            try:
                found = about | measure(args, work, device)
            except (Exception, SystemExit) as error:
                failed.append(work)
                print(f"{work} failed: {error}", file=sys.stderr, flush=True)
                continue
            if args.output:
                with args.output.open("a") as file:
                    file.write(json.dumps(found) + "\n")
        best = lambda of, way: min((v for name, v in of.items() if name.startswith(way)), default=float("nan"))
        taken, ratios = found["seconds"], found["times_as_fast"]
        best_of = lambda values: [best(values, "eager"), best(values, "compiled")]
        row = [taken["hemlock"], *best_of(taken), *best_of(ratios)]
        print(f"| {work} | {' | '.join(f'{number:.3g}' for number in row)} |", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
