#!/usr/bin/env python3
"""Vocabularies of twelve kinds, with the tokens that their own programs make of texts: goldens/vocabularies.

Needs tiktoken 0.14, transformers 5.24, sentencepiece 0.2.3, tokenizers 0.23 and gguf 0.19. `--more N FOLDER` writes N random texts more to
another folder, for `NNZ_VOCABULARIES=FOLDER cargo test -p nnz --test vocabularies`.
"""
import argparse, inspect, io, json, pathlib, random, unicodedata

import sentencepiece as spm
import tiktoken
import transformers
from gguf import GGUFWriter
from tiktoken_ext.openai_public import r50k_pat_str
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import TikTokenConverter

parser = argparse.ArgumentParser()
parser.add_argument("--more", type=int, default=0)
parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "vocabularies")
arguments = parser.parse_args()
out = arguments.folder
out.mkdir(parents=True, exist_ok=True)

corpus = [
    "a sparse network keeps few of its weights, and it's faster; the dense one doesn't, and it'll need 1024 times 4096 numbers.",
    "We've pruned 95% of 12,345 weights in 2024: I'm sure they're gone, you'd see.   Tabs\tand\n\nlines\r\nremain.",
    "def forward(self, x):\n    return self.linear(x) * 0.5  # half\n        y = [i ** 2 for i in range(100)]\n",
    "Ein dünnes Netz behält wenige Gewichte, größer als null; ça marche très bien, señor, naïve façade.",
    "Разреженная сеть хранит мало весов. Αραιό δίκτυο. 稀疏的网络只保留很少的权重。まばらなネットワーク。",
    "https://example.org/a?b=c&d=1#e \U0001f600\U0001f680 don't DON'T Don\u2019t 3.14159 1,000,000 -42",
] * 30
texts = [
    "", " ", "  ", "\n", "\r\n", "\t", "a", " a", "a ", "  a  b  ", "a\nb\n\n\nc", "a \n b", "\n \n", "x\r\ny\rz", "   \n", "\u00a0a\u00a0 b", "\u3000a\u3000",
    "a\u2028b\u2029c", "I'm you're they've we'll he'd it's", "I'M YOU'RE THEY'VE WE'LL HE'D IT'S", "Don\u2019t", "'tis 'S 'ss ''s", "1", "12", "123", "1234",
    "12345678901", "3.14 1,000 -42 1e-5 \u0663\u0664\u0665 \u2168 \u00bd x\u00b2", "abc123def45", "\u00e9\u0301 e\u0301 \u00c5 A\u030a \u212b \ufb01", "na\u00efve fa\u00e7ade",
    "Gr\u00f6\u00dfe STRASSE \u1e9e \u0130i\u0131I", "\u7a00\u758f\u7684\u7f51\u7edc\u3002", "\u307e\u3070\u3089\u306a\u30cd\u30c3\u30c8", "\ud55c\uad6d\uc5b4 \u110b\u1161", "\u0e44\u0e17\u0e22",
    "\u0926\u0947\u0935\u0928\u093e\u0917\u0930\u0940", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea", "a\u200bb\ufeffc\u00adz",
    "!!! ??? ... -- ++ == <<>> {}[]()", "a_b __init__ x->y a::b", "#include <stdio.h>\n\tint main() { return 0; }\n", "https://example.org/a?b=c&d=1#e",
    "foo@bar.com C:\\dir\\file", "$5 \u20ac6 \u00a37 50%", "a" * 50, "ab " * 20, " " * 17 + "x", "\n" * 5 + " " * 3 + "\t\tx", "MixedCASE camelCase SNAKE_CASE",
    "the sparse network keeps few weights", "\u0001\u007f\u0085", "\u1e0b\u0323 q\u0307\u0323", "\u2581a \u2581", "<s> </s> <unk> [CLS] [MASK]", "zq\u01c5 \u01bb \u02b0",
]
random.seed(9)
# Of characters that all of these programs know: those of Unicode 12 and earlier.
old = unicodedata.ucd_3_2_0
pool = [c for c in map(chr, [*range(9, 0x3100), *range(0x4E00, 0x4E80), *range(0xAC00, 0xAC40), *range(0xFB00, 0xFB10), *range(0x1F600, 0x1F640)])
        if old.category(c) not in ("Cn", "Cs", "Co") or ord(c) >= 0x1F600]
common = list("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789 \n\t'.,-_()!") + ["  ", "'s", "'ll", "\r\n", "the ", " sparse", "12"]
for _ in range(24 + arguments.more):
    texts.append("".join(random.choice(pool if random.random() < 0.3 else common) for _ in range(random.randint(3, 24))))
found = {"texts": texts, "tokens": {}, "framed": {}}


def ranks(split, size=420):
    """A byte-level vocabulary, its merges, and the ranks of its tokens by their bytes."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = split
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(t.to_str())["model"]
    # The byte that each letter stands for.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    byte = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
    vocabulary = model["vocab"]
    return vocabulary, [tuple(m) for m in model["merges"]], {bytes(byte[c] for c in token): i for token, i in vocabulary.items()}


def gguf(name, model, tokens, pre=None, merges=None, scores=None, kinds=None, **more):
    g = GGUFWriter(str(out / f"{name}.gguf"), "llama")
    g.add_tokenizer_model(model)
    if pre:
        g.add_tokenizer_pre(pre)
    g.add_token_list(tokens)
    if merges:
        g.add_token_merges([" ".join(m) for m in merges])
    if scores:
        g.add_token_scores(scores)
    g.add_token_types(kinds or [1] * len(tokens))
    for key, value in more.items():
        getattr(g, f"add_{key}")(value)
    import numpy as np
    g.add_tensor("t", np.zeros((1, 32), "f4"))
    g.write_header_to_file(), g.write_kv_data_to_file(), g.write_tensors_to_file(), g.close()


def tell(name, encode, framed=None):
    found["tokens"][name] = [list(encode(t)) for t in texts]
    if framed:
        found["framed"][name] = [list(framed(t)) for t in texts]


level = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_list = lambda v: [t for t, _ in sorted(v.items(), key=lambda p: p[1])]
llama_pattern = inspect.signature(TikTokenConverter).parameters["pattern"].default
qwen_split = transformers.Qwen2Tokenizer()._tokenizer.pre_tokenizer
smol_split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])

vocabulary, merges, byte_ranks = ranks(level)
gguf("gpt-2", "gpt2", by_list(vocabulary), "gpt-2", merges)
tell("gpt-2.gguf", tiktoken.Encoding("gpt-2", pat_str=r50k_pat_str, mergeable_ranks=byte_ranks, special_tokens={}).encode_ordinary)

vocabulary, merges, byte_ranks = ranks(qwen_split)
gguf("llama-bpe", "gpt2", by_list(vocabulary), "llama-bpe", merges)
tell("llama-bpe.gguf", tiktoken.Encoding("llama", pat_str=llama_pattern, mergeable_ranks=byte_ranks, special_tokens={}).encode_ordinary)
vocabulary = vocabulary | {"<|endoftext|>": len(vocabulary)}
gguf("qwen2", "gpt2", by_list(vocabulary), "qwen2", merges, kinds=[1] * (len(vocabulary) - 1) + [3])
qwen = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges)
tell("qwen2.gguf", lambda t: qwen.encode(t, add_special_tokens=False))

vocabulary, merges, _ = ranks(smol_split)
gguf("smollm", "gpt2", by_list(vocabulary), "smollm", merges)
smol = Tokenizer(models.BPE(vocabulary, merges))
smol.pre_tokenizer = smol_split
tell("smollm.gguf", lambda t: smol.encode(t).ids)


def sentences(**how):
    file = io.BytesIO()
    how = {"vocab_size": 420, "character_coverage": 1.0, "minloglevel": 2, "hard_vocab_limit": False} | how
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=file, **how)
    return spm.SentencePieceProcessor(model_proto=file.getvalue()), file.getvalue()


for name, space in [("sentencepiece", True), ("sentencepiece-bare", False)]:
    s, _ = sentences(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=space)
    n = s.vocab_size()
    kinds = [2 if s.is_unknown(i) else 3 if s.is_control(i) else 6 if s.is_byte(i) else 1 for i in range(n)]
    gguf(name, "llama", [s.id_to_piece(i) for i in range(n)], scores=[s.get_score(i) for i in range(n)], kinds=kinds, add_space_prefix=space)
    tell(f"{name}.gguf", s.encode)


def saved(name, tokenizer):
    tokenizer._tokenizer.save(str(out / f"{name}.json"), pretty=False)
    tell(f"{name}.json", lambda t: tokenizer.encode(t, add_special_tokens=False), tokenizer.encode)


special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
for name, lower in [("bert-uncased", True), ("bert-cased", False)]:
    empty = transformers.BertTokenizer(do_lower_case=lower)._tokenizer
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    t.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    saved(name, transformers.BertTokenizer(vocab=t.get_vocab(), do_lower_case=lower))
vocabulary, merges, _ = ranks(level)
vocabulary = {k: i for i, k in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|padding|>", *by_list(vocabulary)])}
saved("roberta", transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=True))
saved("neox", transformers.GPTNeoXTokenizer(vocab=vocabulary, merges=merges))
empty = transformers.CLIPTokenizer()._tokenizer
t = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
t.normalizer, t.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=680, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False))
model = json.loads(t.to_str())["model"]
vocabulary = by_list(model["vocab"])
vocabulary += [c + "</w>" for c in alphabet if c + "</w>" not in model["vocab"]] + ["<|startoftext|>", "<|endoftext|>"]
saved("clip", transformers.CLIPTokenizer(vocab={k: i for i, k in enumerate(vocabulary)}, merges=[tuple(m) for m in model["merges"]]))
# The characters that T5 replaces fill 300 kB, so that they are only in the larger comparison.
rule = "nmt_nfkc" if arguments.more else "identity"
s, proto = sentences(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=400, normalization_rule_name=rule)
from sentencepiece import sentencepiece_model_pb2 as messages
m = messages.ModelProto.FromString(proto)
pieces = [(p.piece, p.score) for p in m.pieces]
t5 = transformers.T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=m.normalizer_spec.precompiled_charsmap or None, extra_ids=0)
saved("t5", t5)
apart = [t for t in texts if s.encode(t) != t5.encode(t, add_special_tokens=False)]
print("t5 differs from sentencepiece itself on", len(apart), "of", len(texts), [ascii(t) for t in apart[:5]])
assert len(found["tokens"]) == 12
(out / "want.json").write_text(json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")
