"""Speed of autoregressive generation by two PyTorch libraries of Perceiver AR, with
random weights: `perceiver-io` 0.11.0 ("io"), which caches keys and values, and
`perceiver-ar-pytorch` 0.0.10 ("ar"), which has no cache.

`pip install --no-deps --ignore-requires-python perceiver-io==0.11.0 fairscale==0.4.13
perceiver-ar-pytorch==0.0.10` beside torch and einops is all that it needs: it imports
the models and none of the trainers. Run it as a script, without JAX."""

import argparse
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--contexts", nargs="+", type=int, default=[1024, 8192, 65536])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=12, help="self-attention layers")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--latents", type=int, default=512, help="at most")
    parser.add_argument("--new-bytes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cap", type=float, default=60, help="seconds of one setting")
    parser.add_argument("--json", help="file for the results")
    args = parser.parse_args()
    if not 1 < args.new_bytes < args.latents < min(args.contexts):
        parser.error("needs 1 < new bytes < latents < context")
    if args.width < 32 * args.heads:
        parser.error("needs 32 channels a head, for the rotary embedding of `ar`")
    # Products of float32 as in JAX on a GPU by default; it is of no effect on a CPU.
    torch.backends.cuda.matmul.allow_tf32 = True
    results = []
    for peer, batch, context in itertools.product(
        args.peers, args.batches, args.contexts
    ):
        setting = {"peer": peer, "batch": batch, "context": context}
        results.append(setting | {"dtype": args.dtype} | measure(args, **setting))
        print(json.dumps(results[-1]), flush=True)
        if args.json:
            with open(args.json, "w") as file:
                json.dump(results, file, indent=1)


def perceiver_io(args: argparse.Namespace, context: int, at_once: int):
    """The model of `perceiver-io` and a function that generates with its cache.

    The loop is that of its `generate` under Hugging Face's sampling, which newer
    `transformers` cannot run: the prompt fills the cache, then each byte goes in alone.
    It leaves out their bookkeeping and the mask of a padding that is not there.

    The latents grow by one with each byte, from `latents - new_bytes`, and never pass
    `max_latents`: within it, the cache gives what an uncached model does. Past it,
    `generate` goes on at the same speed and drops the oldest entry of each layer's
    cache; what is left still carries what it had read of the dropped ones, so that the
    bytes are no longer those of an uncached model."""
    from perceiver.model.core import CausalSequenceModel, CausalSequenceModelConfig

    config = CausalSequenceModelConfig(
        vocab_size=256,
        max_seq_len=context,
        max_latents=args.latents,
        num_channels=args.width,
        num_heads=args.heads,
        num_self_attention_layers=args.depth,
        max_heads_parallel=at_once,
    )
    model = CausalSequenceModel(config)

    def generate(prompt: torch.Tensor, count: int) -> torch.Tensor:
        new, cache = [prompt], []
        for _ in range(count):
            out = model(new[-1], prefix_len=context - args.latents, kv_cache=cache)
            cache = out.kv_cache
            new.append(sample(out.logits[:, -1]))
        return torch.cat(new[1:], dim=1)

    return model, generate


def perceiver_ar(args: argparse.Namespace, context: int, at_once: int):
    """The model of `perceiver-ar-pytorch` and its own `generate`, which runs the whole
    model over the whole context for each byte. Its prefix is of a fixed length, so
    that the latents grow as those of `perceiver_io`."""
    from perceiver_ar_pytorch import PerceiverAR
    from perceiver_ar_pytorch.autoregressive_wrapper import AutoregressiveWrapper

    model = PerceiverAR(
        num_tokens=256,
        dim=args.width,
        depth=args.depth,
        heads=args.heads,
        dim_head=args.width // args.heads,
        max_seq_len=context,
        cross_attn_seq_len=context - args.latents,
        perceive_max_heads_process=at_once,
    )
    # It keeps this share of the logits out: all but the 10 highest of 256.
    generate = partial(AutoregressiveWrapper(model).generate, filter_thres=0.96)
    return model, generate


PEERS = {"io": perceiver_io, "ar": perceiver_ar}


def sample(logits: torch.Tensor) -> torch.Tensor:
    """One byte of each row by its odds among the 10 most likely."""
    highest, byte = logits.topk(10)
    return byte.gather(1, torch.multinomial(highest.softmax(-1), 1))


def measure(args: argparse.Namespace, peer: str, batch: int, context: int) -> dict:
    """Speed of a setting with all heads of the long attention at once, or, where the
    memory does not suffice, with fewer: both libraries have that option."""
    for at_once in sorted({args.heads, 2, 1}, reverse=True):
        if args.device == "cpu":
            if needed_bytes(args, batch, context, at_once) > memory_bytes() / 2:
                continue
        try:
            found = speed(args, peer, batch, context, at_once)
            return found | {"heads_at_once": at_once}
        except torch.cuda.OutOfMemoryError:
            pass
        except RuntimeError as error:  # a limit of a kernel, say
            return {"error": str(error).splitlines()[0]}
        finally:
            free()
    return {"error": "out of memory"}


def speed(
    args: argparse.Namespace, peer: str, batch: int, context: int, at_once: int
) -> dict:
    """Seconds of the prompt with its first byte, and of each further byte."""
    torch.manual_seed(0)
    model, generate = PEERS[peer](args, context, at_once)
    model.to(args.device, getattr(torch, args.dtype)).eval()
    # The new bytes belong to the context: the last one follows `context - 1` others.
    shape = batch, context - args.new_bytes
    prompt = torch.randint(0, 256, shape, device=args.device)

    with torch.inference_mode():
        call = partial(seconds_of, partial(generate, prompt))
        call(2)  # warms up
        new_bytes, repeats = plan(args, call(1), call(3))
        pairs = [(call(1), call(new_bytes)) for _ in range(repeats)]
    step = statistics.median((long - one) / (new_bytes - 1) for one, long in pairs)
    if step <= 0:
        raise RuntimeError("the prompt hides the new bytes; a larger --cap shows them")
    return {
        "seconds_per_byte": step,
        "bytes_per_second": batch / step,
        "prompt_seconds": statistics.median(one for one, _ in pairs),
        "parameters": sum(x.numel() for x in model.parameters()),
        "new_bytes": new_bytes,
        "repeats": repeats,
    }


def plan(args: argparse.Namespace, one: float, three: float) -> tuple[int, int]:
    """New bytes and repeats that fit the time of a setting, if any do, from the seconds
    of 1 byte and of 3. The bytes are cut first, to 8, then the repeats, then again."""
    step = max((three - one) / 2, 1e-9)

    def fitting(repeats: int) -> int:
        return int((args.cap / repeats - 2 * one) / step) + 1

    for repeats in range(args.repeats, 0, -1):
        if fitting(repeats) >= min(8, args.new_bytes):
            return min(fitting(repeats), args.new_bytes), repeats
    return min(max(fitting(1), 2), args.new_bytes), 1


def seconds_of(generate: Callable, count: int) -> float:
    synchronize()
    start = time.perf_counter()
    generate(count)
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def needed_bytes(
    args: argparse.Namespace, batch: int, context: int, at_once: int
) -> int:
    """A rough bound of the memory that the reading of the prompt takes: some arrays
    over the context, and the scores of the heads at once with their copies."""
    of_place = 12 * args.width + 3 * at_once * args.latents
    item_bytes = getattr(torch, args.dtype).itemsize
    return batch * context * of_place * item_bytes


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    main()
