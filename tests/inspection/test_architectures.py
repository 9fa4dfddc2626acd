"""Many architectures, small and with random weights: the features that are taken are those that W turns into the
logits, and the numbers are those of these features."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_ncollapse.inspection import measure_collapse

pytestmark = pytest.mark.slow
K, WIDTH = 5, 16
# What a configuration knows of these is set; lists of stages keep their length.
SIZES = {
    "vocab_size": 50, "hidden_size": WIDTH, "n_embd": WIDTH, "d_model": WIDTH, "dim": WIDTH, "emb_dim": WIDTH,
    "embedding_size": WIDTH, "embed_dim": WIDTH, "intermediate_size": 24, "hidden_dim": 24, "ffn_dim": 24, "d_ff": 24,
    "d_inner": 24, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "ffn_hidden_size": 24, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "head_dim": 8, "attention_head_size": 8,
    "rotary_dim": 4, "max_position_embeddings": 64, "n_positions": 64, "type_vocab_size": 2, "num_experts": 2,
    "n_routed_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "image_size": 32, "patch_size": 8,
    "window_size": 4, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "classifier_proj_size": 12,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
STAGES = {
    "depths": lambda index: 1,
    "hidden_sizes": lambda index: WIDTH * 2**index,
    "num_attention_heads": lambda index: 2,
    "num_heads": lambda index: 2,
}
TYPES = {
    AutoModelForImageClassification: """
        beit data2vec-vision dinov2 dinov2_with_registers focalnet ijepa imagegpt mobilenet_v1 mobilenet_v2
        poolformer pp_lcnet pvt pvt_v2 regnet resnet segformer
    """,
    AutoModelForSequenceClassification: """
        albert arcee bart bert big_bird bigbird_pegasus biogpt bloom camembert canine convbert ctrl data2vec-text
        deberta deberta-v2 deepseek_v2 diffllama distilbert doge electra ernie esm eurobert exaone4 flaubert fnet gemma
        gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neox gpt_oss gptj helium hunyuan_v1_dense hunyuan_v1_moe
        ibert jetmoe layoutlm llama
    """,
    AutoModelForAudioClassification: """
        data2vec-audio hubert sew sew-d unispeech unispeech-sat wav2vec2 wav2vec2-conformer wavlm
    """,
    AutoModelForTokenClassification: "bert deberta-v2 distilbert electra gpt2",
}
CASES = [(auto, model_type) for auto, names in TYPES.items() for model_type in names.split()]
TIMM = [
    "resnet10t",
    "mobilenetv3_small_050",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "mobilenetv2_035",
    "mixer_s32_224",
]
TORCHVISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121", "mnasnet0_5"]
# Blocks that cannot be told apart, with the way out.
UNNAMED_BLOCKS = {
    "albert": "runs several times in one forward pass: leave it out of layers",
    "canine": "this layer cannot be pooled, leave it out of layers",
    "flaubert": "name the modules that end its blocks",
}


def small_config(model_type):
    known = AutoConfig.for_model(model_type)
    sizes = {}
    for name, size in SIZES.items():
        is_of_stages = isinstance(getattr(known, name, None), list | tuple) and not isinstance(size, tuple)
        if hasattr(known, name) and not is_of_stages:
            sizes[name] = size
    for name, of_stage in STAGES.items():
        if isinstance(getattr(known, name, None), list | tuple):
            sizes[name] = [of_stage(index) for index in range(len(getattr(known, name)))]
    if hasattr(known, "vocab_size"):
        sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return AutoConfig.for_model(model_type, **sizes, num_labels=K)


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():  # initial biases are 0, and the initial features of all inputs alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_batches(model, side=32):
    """Two batches; of texts one is padded on the right and the other on the left."""
    batches, generator = [], torch.Generator().manual_seed(1)
    kind = getattr(model, "main_input_name", "pixel_values")
    for size in (9, 8):
        labels = torch.arange(size) % K
        if kind == "pixel_values":
            batch = {"pixel_values": torch.randn(size, 3, side, side, generator=generator)}
        elif kind == "input_values":
            batch = {"input_values": torch.randn(size, 400, generator=generator)}
        else:
            lengths = torch.randint(3, 13, (size, 1), generator=generator)
            lengths[0] = 12
            mask = (torch.arange(12) < lengths).long()
            tokens = torch.randint(5, 50, (size, 12), generator=generator)
            tokens = torch.where(torch.arange(12) == lengths - 1, 2, tokens) * mask  # ends in the token of the end
            if batches:
                rolled = [row.roll(12 - int(length)) for row, length in zip(tokens, lengths, strict=True)]
                mask, tokens = mask.flip(1), torch.stack(rolled)
            batch = {"input_ids": tokens, "attention_mask": mask}
            if "TokenClassification" in type(model).__name__:
                labels = torch.randint(0, K, (size, 12), generator=generator).masked_fill(mask == 0, -100)
        batches.append({**batch, "labels": labels})
    return batches


def run(model, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        output = model(**inputs) if hasattr(model, "config") else model(inputs["pixel_values"])
    return output if isinstance(output, torch.Tensor) else output.get("logits", output.get("last_hidden_state"))


def one_a_sample(features, batch, logits):
    """A sample's feature: the layer's input, of its last token, its tokens' mean, or every token that has a label."""
    labels = batch["labels"]
    if labels.ndim == 2:
        return features[labels != -100], logits[labels != -100], labels[labels != -100]
    if features.ndim == 3:
        mask = batch["attention_mask"]
        last = features[torch.arange(len(features)), (torch.arange(12) * mask).argmax(1)]
        means = (features * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        features = last if features.shape[2] == WIDTH and not batch.get("mean") else means
    return features.reshape(len(labels), -1), logits, labels


def require_the_models_own_numbers(model, batches, pooled=False):
    """Compare with features caught by a hook of the test's own, in two passes and float64."""
    data = batches if hasattr(model, "config") else [(batch["pixel_values"], batch["labels"]) for batch in batches]
    report = measure_collapse(model, data, measures=["nc1", "nc3"], progress=False)
    head = dict(model.named_modules())[report.head.split('"')[1]]
    caught, found = [], []
    hook = head.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    for batch in batches:
        logits = run(model, batch)
        features, logits, labels = one_a_sample(caught.pop(), batch | {"mean": pooled}, logits)
        weight, bias = head.weight.double(), 0 if head.bias is None else head.bias.double()
        expected = features.double() @ weight.T + bias
        tolerance = 0.02 if logits.dtype == torch.bfloat16 else 1e-4
        assert (expected - logits).norm() <= tolerance * logits.double().norm()
        found.append((features.double(), labels))
    hook.remove()
    features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    means = torch.stack([features[labels == k].mean(0) for k in range(K)])
    within = torch.stack([(features[labels == k] - means[k]).square().sum(1).mean() for k in range(K)]).mean()
    between = (means - means.mean(0)).square().sum(1).mean()
    assert report["nc1"] == pytest.approx(float(within / between), rel=1e-4)
    cosines = nn.functional.cosine_similarity(features, head.weight.double()[labels], eps=0)
    cosines = cosines.nan_to_num(nan=0)  # of the zeros that Flaubert has at a first token that is padding
    assert report["nc3"] == pytest.approx(float(1 - cosines.mean()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("auto", "model_type"), CASES, ids=[f"{auto.__name__[12:]}-{name}" for auto, name in CASES])
def test_a_models_collapse_is_that_of_what_it_classifies(auto, model_type):
    torch.manual_seed(0)
    model = randomised(auto.from_config(small_config(model_type)))
    batches = make_batches(model)
    require_the_models_own_numbers(model, batches, pooled=model_type == "eurobert")
    if model_type in UNNAMED_BLOCKS:
        with pytest.raises(ValueError, match=UNNAMED_BLOCKS[model_type]):
            measure_collapse(model, batches, layers="all", progress=False)
    else:
        layers = measure_collapse(model, batches, measures="nc1", layers="all", progress=False).layers
        assert len(layers) > 2
        assert all(layer.values["nc1"] > 0 for layer in layers)


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt_neox"])
def test_half_precision_and_gradient_checkpointing_change_nothing_of_what_is_measured(model_type):
    torch.manual_seed(0)
    model = randomised(AutoModelForSequenceClassification.from_config(small_config(model_type)))
    batches = make_batches(model)
    plain = measure_collapse(model, batches, layers="all", progress=False)
    model.gradient_checkpointing_enable()
    model.train()
    saving = measure_collapse(model, batches, layers="all", progress=False)
    assert [row.values for row in saving.layers] == [row.values for row in plain.layers]
    require_the_models_own_numbers(copy.deepcopy(model).bfloat16().eval(), batches)


@pytest.mark.parametrize("architecture", TIMM)
def test_a_model_of_timm_through_transformers(architecture):
    pytest.importorskip("timm")
    from transformers import TimmWrapperConfig

    torch.manual_seed(0)
    sized = {"img_size": 64} if architecture.startswith(("vit", "mixer")) else {}
    config = TimmWrapperConfig(architecture=architecture, num_labels=K, model_args=sized)
    model = randomised(AutoModelForImageClassification.from_config(config))
    require_the_models_own_numbers(model, make_batches(model, side=64))


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_model_of_torchvision(name):
    torchvision = pytest.importorskip("torchvision")
    model = randomised(getattr(torchvision.models, name)(num_classes=K))
    require_the_models_own_numbers(model, make_batches(model, side=64))


def test_adapters_of_peft():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(small_config("bert"))
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    adapted = randomised(peft.get_peft_model(model, config))
    require_the_models_own_numbers(adapted, make_batches(model))
