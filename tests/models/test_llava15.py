"""LLaVA-1.5: equality with transformers' own Llava on a tiny random checkpoint of its layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tokenreduce.cost import tower_cost
from tokenreduce.engine.types import Plan, Prune, Sampling
from tokenreduce.errors import ModelError
from tokenreduce.images import prepared
from tokenreduce.inside import look_inside, patch_layout
from tokenreduce.methods import METHODS
from tokenreduce.methods.controls import Random
from tokenreduce.models.chat import VICUNA, Chat, prompt_text
from tokenreduce.models.evidence import attention_of
from tokenreduce.models.families import family_of
from tokenreduce.models.llava15 import Llava15
from tokenreduce.models.llava15_config import read_spec
from tokenreduce.models.load import check, load
from tokenreduce.models.vision import Within, pixel_values
from tokenreduce.schedule import Even, Once
from tokenreduce.seen import Need
from tokenreduce.tokens import Tokens

SIDE, IMAGE_ID, VOCABULARY = 5, 310, 312
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PREPROCESSOR = {
    "crop_size": {"height": 70, "width": 70},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "resample": 3,
    "size": {"shortest_edge": 70},
}
# What the files on the hub, written by transformers 4, call the parts.
HUB_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    level = logging.getLogger("bitsandbytes").level
    with torch.no_grad():
        yield
    logging.getLogger("bitsandbytes").setLevel(level)


def vicuna_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: a space mark before each stretch of text, bytes for what has no token, a BOS."""
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", *"USERAINTthowmanyobjct:?.▁"]
    vocabulary = {
        word: index
        for index, word in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *alphabet, *words]))
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    fillers = IMAGE_ID - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<filler {index}>" for index in range(fillers)])
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    kind: Any = PreTrainedTokenizerFast  # untyped
    made: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return made


@torch.no_grad()
def tiny() -> LlavaForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = LlavaConfig(
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 14 * SIDE,
                "patch_size": 14,
                "projection_dim": 16,
            },
            text_config={
                "model_type": "llama",
                "vocab_size": VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "max_position_embeddings": 512,
            },
            image_token_index=IMAGE_ID,
            image_seq_length=SIDE**2,
        )
        model = LlavaForConditionalGeneration(config)
        model.train(False)
        # Away from zero, so that a norm or a bias that is left out shows.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def write(folder: Path, model: LlavaForConditionalGeneration, naming: str) -> None:
    model.save_pretrained(folder)
    vicuna_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    if naming == "saved":
        return
    renamed = {}
    for name, tensor in model.state_dict().items():
        (known,) = (pair for pair in HUB_NAMES if name.startswith(pair[0]))
        renamed[known[1] + name.removeprefix(known[0])] = tensor.contiguous()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Both:
    """transformers' own model, ours with the very same weights, and where these lie."""

    stock: Any
    ours: Llava15
    folder: Path


def opened(folder: Path, quantize: str = "none") -> Llava15:
    model = load(str(folder), device="cpu", quantize=quantize)
    assert isinstance(model, Llava15)
    return model


@pytest.fixture(scope="module", params=["hub", "saved"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder, stock = tmp_path_factory.mktemp(request.param), tiny()
    write(folder, stock, request.param)
    return Both(stock, opened(folder), folder)


def _untyped(model: Any) -> Any:
    return model


def pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 14 * SIDE, 14 * SIDE, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def ids_of(model: Llava15, question: str, images: int) -> Tensor:
    """Token ids with placeholders, tokenized whole, as transformers' processor does."""
    text = prompt_text(question, None, VICUNA).replace("<image>", "<image>" * SIDE**2 * images)
    return torch.tensor([model.chat.tokenizer(text)["input_ids"]])


def test_both_namings_are_read_without_the_unused_layer(both: Both) -> None:
    spec = both.ours.spec
    assert (spec.vision.layers, spec.vision.patches, spec.vision.classes) == (3, SIDE**2, 1)
    assert (spec.pool, spec.newline, spec.side, spec.still) == ("none", "no_token", SIDE, "crop")
    assert spec.layout(3).available == 3 * SIDE**2
    assert len(both.ours.layers) == 3
    check(str(both.folder))
    stored = load_file(both.folder / "model.safetensors")
    assert any(".encoder.layers.3." in name for name in stored)


@pytest.mark.parametrize("images", [1, 3])
def test_features_logits_and_greedy_tokens_are_those_of_transformers(
    both: Both, images: int
) -> None:
    stock, ours = both.stock, both.ours
    frames, question = pictures(images), "How many objects?"
    pixels = pixel_values(frames, ours.spec)
    features = ours.encode(frames)
    theirs = stock.model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features, torch.stack(list(theirs)), rtol=0, atol=1e-5)

    visual = Tokens.fresh(features.flatten(0, 1).unsqueeze(0))
    prompt = ours.prompt(question, None, visual, ours.spec.layout(images))
    ids = ids_of(ours, question, images)
    assert prompt.embeds.shape[1] == ids.shape[1]
    assert torch.equal(prompt.visual, (ids[0] == IMAGE_ID).nonzero().squeeze(1))
    assert prompt.text_count == ours.text_tokens(question, None)
    wanted = stock(input_ids=ids, pixel_values=pixels).logits
    found = ours.host(inputs_embeds=prompt.embeds).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)

    wished = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    tokens = stock.generate(input_ids=ids, pixel_values=pixels, attention_mask=mask, **wished)
    host: Any = ours.host
    made = host.generate(inputs_embeds=prompt.embeds, plan=Plan(prompt), **wished)
    assert made[0].tolist() == tokens[0, ids.shape[1] :].tolist()

    pieces: list[str] = []
    answer = ours.generate(prompt, (), Sampling(12), pieces.append, lambda _: None)
    assert answer.text == "".join(pieces)
    assert answer.tokens == made.shape[1]
    assert answer.per_layer == (images * SIDE**2,) * 4


def test_pictures_are_encoded_alike_in_any_batch(both: Both) -> None:
    frames = pictures(6)
    apart = torch.cat([both.ours.encode(frames[:4]), both.ours.encode(frames[4:])])
    assert torch.equal(both.ours.encode(frames), apart)


def test_pruned_inside_the_llm_is_masked(both: Both) -> None:
    """Half the visual tokens leave after layer 1: the layers above, in which they are masked in a
    plain loop, give the same logits."""
    ours, host = both.ours, _untyped(both.ours.host)
    visual = Tokens.fresh(ours.encode(pictures(1)))
    prompt = ours.prompt("How many?", None, visual, ours.spec.layout(1))
    left: list[Tensor] = []

    class Noted(Random):
        """Random, and which tokens it kept."""

        def filter(self, seen: Any, keep: int) -> Any:
            split = super().filter(seen, keep)
            left.append(split.keep[0])
            return split

    prunes = (Prune(Noted(), Once(Fraction(1, 4), Fraction(1, 2))),)
    out = host.generate(
        inputs_embeds=prompt.embeds,
        plan=Plan(prompt, prunes),
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )

    stack: Any = both.stock.model.language_model
    length = prompt.embeds.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    gone = torch.zeros(length, dtype=torch.bool)
    gone[prompt.visual] = True
    gone[prompt.visual[left[0]]] = False
    hidden, rope = prompt.embeds, stack.rotary_emb(prompt.embeds, torch.arange(length)[None])
    for index, layer in enumerate(stack.layers):
        sees = causal & ~gone if index >= 2 else causal
        mask = torch.zeros(1, 1, length, length).masked_fill(~sees, torch.finfo().min)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rope)
    wanted = both.stock.lm_head(stack.norm(hidden[:, -1]))
    torch.testing.assert_close(out.logits[0], wanted, rtol=0, atol=1e-4)
    assert len(left) == 1  # something was removed, and it mattered
    plain = ours.host(inputs_embeds=prompt.embeds).logits[:, -1]
    assert (out.logits[0] - plain).abs().max() > 1e-2


def seen_by_stock(both: Both, frames: Tensor) -> tuple[Tensor, nn.Module]:
    """What enters the layer that features are taken from, and that layer."""
    pixels = pixel_values(frames, both.ours.spec)
    tower = both.stock.model.vision_tower
    states = tower(pixels, output_hidden_states=True).hidden_states
    return states[2], tower.encoder.layers[2]


@pytest.mark.parametrize("kind", ["salience", "keys", "attention"])
def test_evidence_is_of_the_layer_features_are_taken_from(both: Both, kind: Need) -> None:
    frames = pictures(5)  # more than one batch
    features, evidence = both.ours.look(frames, frozenset({kind}))
    assert torch.equal(features, both.ours.encode(frames))
    hidden, layer = seen_by_stock(both, frames)
    attention = attention_of(layer, hidden)
    q, k = attention.q, attention.k
    weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1).mean(dim=1)
    wanted = {
        "salience": weights[:, 0, 1:],
        "keys": k[:, :, 1:].transpose(1, 2),
        "attention": weights[:, 1:, 1:],
    }
    found = getattr(evidence, kind)
    torch.testing.assert_close(found, wanted[kind], rtol=0, atol=1e-5)
    assert evidence.has_class
    assert [name for name in wanted if getattr(evidence, name) is not None] == [kind]


def test_tokens_leave_between_the_layers_of_the_tower(both: Both) -> None:
    frames = pictures(5)
    needs: frozenset[Need] = frozenset({"salience", "keys"})
    whole, shown = both.ours.look(frames, needs)
    all_kept, all_shown = both.ours.look_within(frames, Within(Random(), Even(), SIDE**2), needs)
    assert torch.equal(all_kept.x, whole)
    assert shown.keys is not None
    assert all_shown.keys is not None
    assert torch.equal(all_shown.keys, shown.keys)

    tokens, evidence = both.ours.look_within(frames, Within(Random(), Even(), 7, seed=3), needs)
    assert tokens.x.shape == (5, 7, 64)
    assert (tokens.place.diff(dim=1) > 0).all()
    assert evidence.keys is not None
    assert evidence.salience is not None
    assert evidence.keys.shape[:2] == evidence.salience.shape == (5, 7)
    alone, nothing = both.ours.look_within(frames, Within(Random(), Even(), 7, seed=3), frozenset())
    assert torch.equal(alone.x, tokens.x)
    assert nothing.keys is None


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "encoder" in m().sites])
def test_every_method_of_the_site_acts_inside_clip(both: Both, name: str) -> None:
    method = METHODS[name]()
    schedule = method.usual if isinstance(method.usual, Even) else Even(Fraction(1, 3))
    left = look_inside(both.ours, pictures(2), 15, Within(method, schedule, 1))
    assert left.count == 15
    assert torch.isfinite(left.x).all()
    assert (left.place.diff() > 0).all()
    prompt = both.ours.prompt("How?", None, left, patch_layout(both.ours.spec, 2))
    made = both.ours.generate(prompt, (), Sampling(2), lambda _: None, lambda _: None)
    assert made.per_layer == (15,) * 4


@pytest.mark.parametrize("question", ["How many objects?", "Un café 東京 ☃", "a <image> </s> b"])
def test_the_prompt_is_that_of_the_chat_template(question: str) -> None:
    """Read off the template that comes with llava-hf/llava-1.5-7b-hf."""
    chat = Chat(vicuna_tokenizer(), VICUNA)
    before, after = chat.pieces(question, None)
    assert prompt_text(question, None, VICUNA) == f"USER: <image>\n{question} ASSISTANT:"
    assert before[0] == 1
    whole = chat.tokenizer(f"USER: <image>\n{question} ASSISTANT:")["input_ids"]
    if "<" in question:  # what a user writes is never a special token
        assert IMAGE_ID not in after
        assert 2 not in after
        assert whole.count(IMAGE_ID) == 2
    else:
        assert [*before, IMAGE_ID, *after] == whole
    assert chat.stops == (2,)


@pytest.mark.parametrize("size", [(70, 70), (200, 91), (91, 200), (33, 50), (71, 640), (1, 3)])
def test_pixel_values_are_those_of_the_clip_processor(both: Both, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[0])
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator)
    picture = Image.fromarray(pixels.numpy())
    processor: Any = CLIPImageProcessorPil(**PREPROCESSOR)  # type: ignore[arg-type]  # sizes of mixed types, by name
    wanted = processor(picture, return_tensors="pt")["pixel_values"]
    found = torch.from_numpy(prepared(picture, both.ours.spec, alone=True))
    torch.testing.assert_close(pixel_values(found, both.ours.spec), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_the_language_model_alone_is_quantised(both: Both, quantize: str) -> None:
    model = opened(both.folder, quantize=quantize)
    assert model.quantize == quantize
    kinds = {type(m).__name__ for m in model.host.model.language_model.modules()}
    assert {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[quantize] in kinds
    frames = pictures(1)
    assert torch.equal(model.encode(frames), both.ours.encode(frames))
    prompt = model.prompt("How?", None, Tokens.fresh(model.encode(frames)), model.spec.layout(1))
    made = model.generate(prompt, (), Sampling(3), lambda _: None, lambda _: None)
    assert 1 <= made.tokens <= 3


SEVEN_B: dict[str, Any] = {  # as llava-hf/llava-1.5-7b-hf has it
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def test_the_published_configuration() -> None:
    assert family_of("x", SEVEN_B).module.endswith("llava15")
    spec = read_spec("x", SEVEN_B, {})
    assert (spec.vision.layers, spec.vision.width, spec.vision.side) == (23, 1024, 24)
    assert spec.vision.mean == tuple(MEAN)
    assert spec.vision.std == tuple(STD)
    assert (spec.text.layers, spec.text.width, spec.text.mlp_width) == (32, 4096, 11008)
    assert (spec.text.kv_heads, spec.text.context, spec.text.vocab) == (32, 4096, 32064)
    assert spec.layout(1).available == 576
    assert (spec.native_frames, spec.time_text) == (1, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_feature_select_strategy": "full"}, "select_strategy is 'full'"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer is \[-2, -5\]"),
        ({"vision_feature_layer": -25}, "one layer of 24"),
        ({"vision_feature_layer": 0}, "vision_feature_layer is 0"),
        ({"text_config": {"model_type": "mistral"}}, "language model is 'mistral'"),
        ({"text_config": 3}, "text_config in config.json is 3"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "only clip_vision_model"),
        ({"vision_config": {"num_hidden_layers": "x"}}, "num_hidden_layers .* 'x'"),
        ({"quantization_config": {}}, "quantised already"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
    ],
)
def test_another_configuration_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        read_spec("x", {**SEVEN_B, **changes}, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"shortest_edge": 224}),
        ("crop_size", {"height": 336, "width": 224}),
        ("do_center_crop", False),
        ("resample", 2),
        ("do_pad", True),
        ("image_std", [1, 0, 1]),
    ],
)
def test_another_preprocessing_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{key} in preprocessor_config.json is"):
        read_spec("x", SEVEN_B, {key: value})


def test_the_original_layout_is_not_mistaken_for_it() -> None:
    config = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    with pytest.raises(ModelError, match=r"LlavaLlamaForCausalLM; supported: .*llava-1\.5-7b-hf"):
        family_of("x", config)


Break = Callable[[dict[str, Tensor]], None]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda t: t.pop("multi_modal_projector.linear_2.bias"), "linear_2.bias missing"),
        (lambda t: t.pop("vision_tower.vision_model.pre_layrnorm.weight"), "pre_layrnorm"),
        (lambda t: t.update(surprise=torch.zeros(2)), "unexpected tensor surprise"),
        (lambda t: t.update({"language_model.lm_head.weight": torch.zeros(3, 64)}), "lm_head"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, broken: Break, said: str) -> None:
    write(tmp_path, tiny(), "hub")
    tensors = load_file(tmp_path / "model.safetensors")
    broken(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=said) as caught:
        load(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path, tiny(), "hub")
    kind: Any = PreTrainedTokenizerFast
    kind(tokenizer_object=vicuna_tokenizer().backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="names no bos_token or no eos_token"):
        load(str(tmp_path), device="cpu")


def test_the_tower_is_charged_for_its_class_token() -> None:
    vision = read_spec("x", SEVEN_B, {}).vision
    n, width = 577, 1024
    weights = 4 * width**2 + 2 * width * 4096
    wanted = 23 * (2 * n * weights + 4 * n**2 * width) + 2 * 576 * 3 * 14**2 * width
    assert tower_cost(vision).matmul == wanted
