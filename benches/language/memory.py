#!/usr/bin/env python3
"""Peak memory of pruning a language model: that which is the program's own (RssAnon), apart from pages of the mapped file.

    benches/language/memory.py target/release/nnz [MODEL TEXT]

Without MODEL a Llama of 3.2 billion parameters in 16 bits is made of random numbers in a temporary folder (6.4 GB; TMPDIR says where). One
block of it in 32 bits is the unit that the last column counts.
"""
import json, pathlib, random, shutil, struct, subprocess, sys, tempfile, threading, time

LAYERS, WIDTH, HIDDEN, HEADS, GROUPS, VOCABULARY = 28, 3072, 8192, 24, 8, 128256


def shapes():
    each = WIDTH // HEADS
    yield "model.embed_tokens.weight", [VOCABULARY, WIDTH]
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", [WIDTH]
        yield name + "self_attn.q_proj.weight", [WIDTH, WIDTH]
        yield name + "self_attn.k_proj.weight", [GROUPS * each, WIDTH]
        yield name + "self_attn.v_proj.weight", [GROUPS * each, WIDTH]
        yield name + "self_attn.o_proj.weight", [WIDTH, WIDTH]
        yield name + "post_attention_layernorm.weight", [WIDTH]
        yield name + "mlp.gate_proj.weight", [HIDDEN, WIDTH]
        yield name + "mlp.up_proj.weight", [HIDDEN, WIDTH]
        yield name + "mlp.down_proj.weight", [WIDTH, HIDDEN]
    yield "model.norm.weight", [WIDTH]


def entries(shape):
    n = 1
    for extent in shape:
        n *= extent
    return n


def make(folder):
    """A model of random halves between -1/16 and 1/16, norms of one, and a vocabulary of bytes."""
    header, at = {}, 0
    for name, shape in shapes():
        size = 2 * entries(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    rng = random.Random(0)
    # Halves of random sign and fraction with exponents of 2^-6 to 2^-5; one piece again and again, from another place each time.
    piece = b"".join(struct.pack("<H", rng.getrandbits(1) << 15 | (9 + rng.getrandbits(1)) << 10 | rng.getrandbits(10)) for _ in range(1 << 20))
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes():
            left = 2 * entries(shape)
            if len(shape) == 1:
                file.write(struct.pack("<e", 1.0) * (left // 2))
                continue
            while left:
                start = 2 * rng.randrange(1 << 19)
                part = piece[start : start + left]
                file.write(part)
                left -= len(part)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 4096, "hidden_act": "silu", "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    letters = {chr(c): i for i, c in enumerate(range(32, 127))}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
                 "model": {"type": "BPE", "vocab": letters, "merges": [], "unk_token": None}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def measured(command):
    """Seconds, and the most memory of the process's own in bytes."""
    most, begun = 0, time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = []
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))
    reader.start()
    while process.poll() is None:
        try:
            for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    most = max(most, 1024 * int(line.split()[1]))
        except OSError:
            pass
        time.sleep(0.02)
    reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {said[0].strip()}")
    return time.time() - begun, most


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if len(sys.argv) > 3:
            model, text = map(pathlib.Path, sys.argv[2:4])
            block, name = None, model.name
        else:
            model, text = folder / "model", folder / "text.txt"
            model.mkdir()
            make(model)
            rng = random.Random(1)
            text.write_text("".join(chr(rng.randrange(32, 127)) for _ in range(4096)))
            count = sum(entries(s) for _, s in shapes())
            block = 4 * sum(entries(s) for n, s in shapes() if n.startswith("model.layers.0."))
            name = f"generated, {count / 1e9:.2f} billion parameters"
        print("| model | method | seconds | own memory at most | in blocks of 32 bits |")
        print("|---|---|---|---|---|")
        common = ["--density", "0.5", "-o", folder / "small", "--quiet"]
        calibrated = ["--calibrate", text, "--calibration-tokens", "512", "--calibration-length", "128"]
        for words in (["magnitude", "--distribution", "uniform"], ["wanda", *calibrated]):
            seconds, most = measured([program, "prune", model, "--method", *words, *common])
            blocks = f"{most / block:.1f}" if block else "-"
            print(f"| {name} | {words[0]} | {seconds:.0f} | {most / 1e9:.2f} GB | {blocks} |", flush=True)
            shutil.rmtree(folder / "small")


main()
