"""What is measured of other people's models is what their own forward pass classifies."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    ConvNextConfig,
    DeiTConfig,
    DistilBertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    ResNetConfig,
    RobertaConfig,
    SwinConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
)
from transformers.models.deit.modeling_deit import DeiTForImageClassificationWithTeacher

from hf_ncollapse import (
    CollapseResNetConfig,
    CollapseResNetForImageClassification,
    CollapseTransformerConfig,
    CollapseTransformerForSequenceClassification,
)
from hf_ncollapse.inspection import measure_collapse
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics
from hf_ncollapse.neural_collapse.compute import compute
from hf_ncollapse.neural_collapse.held_out_statistics import HeldOutStatistics

K = 5
SMALL_TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": K,
}
SMALL_VISION = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}
# Name -> (Auto class, configuration, the name of its classifier, its blocks).
ARCHITECTURES = {
    "vit": (AutoModelForImageClassification, ViTConfig(**SMALL_VISION, num_labels=K), "classifier", 2),
    "deit": (
        AutoModelForImageClassification,
        DeiTConfig(**SMALL_VISION, num_labels=K, architectures=["DeiTForImageClassification"]),
        "classifier",
        2,
    ),
    "convnext": (
        AutoModelForImageClassification,
        ConvNextConfig(**STAGES, num_stages=2, image_size=32, num_labels=K),
        "classifier",
        2,
    ),
    "resnet": (
        AutoModelForImageClassification,
        ResNetConfig(**STAGES, embedding_size=8, layer_type="basic", num_labels=K),
        "classifier.1",
        2,
    ),
    "swin": (
        AutoModelForImageClassification,
        SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=K
        ),
        "classifier",
        2,
    ),
    "bert": (AutoModelForSequenceClassification, BertConfig(**SMALL_TEXT), "classifier", 2),
    "roberta": (
        AutoModelForSequenceClassification,
        RobertaConfig(**SMALL_TEXT, pad_token_id=1, max_position_embeddings=40),
        "classifier.out_proj",
        2,
    ),
    "distilbert": (
        AutoModelForSequenceClassification,
        DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24, num_labels=K),
        "classifier",
        2,
    ),
    "llama": (AutoModelForSequenceClassification, LlamaConfig(**SMALL_TEXT, pad_token_id=0), "score", 2),
    "gpt2": (
        AutoModelForSequenceClassification,
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=0, num_labels=K),
        "score",
        2,
    ),
    "wav2vec2": (
        AutoModelForAudioClassification,
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=(8, 8),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=12,
            num_labels=K,
        ),
        "classifier",
        2,
    ),
    "bert_tokens": (AutoModelForTokenClassification, BertConfig(**SMALL_TEXT), "classifier", 2),
}


def make_model(name):
    torch.manual_seed(0)
    auto_class, config, _, _ = ARCHITECTURES[name]
    model = auto_class.from_config(copy.deepcopy(config))  # some tests change it
    for parameter in model.parameters():  # initial biases are 0, and the initial features of all inputs alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def text_batch(num_texts, generator, pad=0):
    lengths = torch.randint(2, 13, (num_texts,), generator=generator)
    lengths[0] = 12
    mask = (torch.arange(12) < lengths.unsqueeze(1)).long()
    tokens = torch.randint(5, 50, (num_texts, 12), generator=generator)
    return {"input_ids": torch.where(mask == 1, tokens, pad), "attention_mask": mask}


def make_batches(model, sizes=(7, 7, 4)):
    generator = torch.Generator().manual_seed(1)
    batches = []
    for size in sizes:
        if model.main_input_name == "pixel_values":
            side = getattr(model.config, "image_size", 32)
            batch = {"pixel_values": torch.randn(size, 3, side, side, generator=generator)}
        elif model.main_input_name == "input_values":
            mask = (torch.arange(400) < torch.randint(200, 401, (size, 1), generator=generator)).long()
            batch = {"input_values": torch.randn(size, 400, generator=generator) * mask, "attention_mask": mask}
        else:
            batch = text_batch(size, generator, pad=model.config.pad_token_id or 0)
        labels = torch.arange(size) % K
        if "TokenClassification" in type(model).__name__:
            labels = torch.randint(0, K, (size, 12), generator=generator)
            labels[batch["attention_mask"] == 0] = -100
        batches.append({**batch, "labels": labels})
    return batches


def captured_input_of(model, layer, batch):
    """The classifier's input and the model's logits, by a hook of the test's own."""
    found = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    hook.remove()
    return found[0], logits


def features_by_hand(model, layer, batch):
    features, logits = captured_input_of(model, layer, batch)
    labels = batch["labels"]
    if labels.ndim == 2:
        return features[labels != -100], logits[labels != -100], labels[labels != -100]
    if features.ndim == 3:
        last = batch["attention_mask"].sum(1) - 1
        features = torch.stack([row[position] for row, position in zip(features, last, strict=True)])
    return features, logits, labels


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_features_are_what_the_classifier_turns_into_the_logits(name):
    model = make_model(name)
    layer, num_blocks = ARCHITECTURES[name][2:]
    batches = make_batches(model)
    model.train()
    report = measure_collapse(model, batches, layers="all")
    assert model.training
    assert f'classifier "{layer}"' in report.head
    assert "its output is the model's logits" in report.head
    assert len(report.layers) == num_blocks + 1

    model.eval()
    head = model.get_submodule(layer)
    expected = ClassStatistics(K)
    for batch in batches:
        features, logits, labels = features_by_hand(model, layer, batch)
        torch.testing.assert_close(head(features), logits, atol=1e-5, rtol=0)
        expected.update(features.detach(), labels)
    measured = report.statistics["features"]
    torch.testing.assert_close(measured.class_means, expected.class_means, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(measured.within_class_scatter, expected.within_class_scatter, atol=1e-5, rtol=1e-5)
    for measure in ("nc1", "nc2", "nc2_means", "nc3"):
        by_hand = compute(expected, classifier=head.weight, measures=[measure])[measure]
        assert report[measure] == pytest.approx(by_hand, rel=1e-5)


def test_a_block_of_a_text_encoder_is_averaged_over_the_tokens_that_are_not_padding():
    model = make_model("bert").eval()
    batches = make_batches(model)
    report = measure_collapse(model, batches, layers="all")
    assert report.layers[0].pooling == "mean over tokens"
    expected = [ClassStatistics(K) for _ in range(2)]
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            states = model.bert(**inputs, output_hidden_states=True).hidden_states[1:]
        for statistics, layer in zip(expected, states, strict=True):
            pooled = [row[mask == 1].mean(0) for row, mask in zip(layer, inputs["attention_mask"], strict=True)]
            statistics.update(torch.stack(pooled), batch["labels"])
    for row, statistics in zip(report.layers, expected, strict=False):
        assert row.values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
        assert "nc3" not in row.values
        assert row.left_out["nc3"] == "W acts on the features alone"


def test_a_decoders_blocks_are_read_at_the_token_that_its_head_reads():
    model = make_model("llama").eval()
    batches = make_batches(model)
    report = measure_collapse(model, batches, layers=["model.layers.0"])
    statistics = ClassStatistics(K)
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            states = model.model(**inputs, output_hidden_states=True).hidden_states[1]
        last = inputs["attention_mask"].sum(1) - 1
        statistics.update(states[torch.arange(len(last)), last], batch["labels"])
    assert report.layers[0].values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


def test_named_poolings_read_the_first_or_the_last_token():
    model = make_model("bert").eval()
    batches = make_batches(model)
    for pooling, read in (("first", lambda mask: 0 * mask.sum(1)), ("last", lambda mask: mask.sum(1) - 1)):
        report = measure_collapse(model, batches, layers="all", pooling=pooling)
        statistics = ClassStatistics(K)
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with torch.no_grad():
                states = model.bert(**inputs).last_hidden_state
            statistics.update(states[torch.arange(len(states)), read(inputs["attention_mask"])], batch["labels"])
        assert report.layers[1].values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


def test_the_packages_own_models_give_the_features_that_they_return():
    torch.manual_seed(0)
    config = CollapseResNetConfig(image_size=8, num_channels=1, hidden_size=16, num_hidden_layers=3, num_labels=K)
    model = CollapseResNetForImageClassification(config).eval()
    batch = {"pixel_values": torch.randn(20, 1, 8, 8), "labels": torch.arange(20) % K}
    report = measure_collapse(model, [batch], layers="all")
    statistics = ClassStatistics(K)
    statistics.update(model(pixel_values=batch["pixel_values"]).features.detach(), batch["labels"])
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-6)
    assert len(report.layers) == 4


def test_the_packages_transformer_masks_padding_in_the_same_way():
    torch.manual_seed(0)
    config = CollapseTransformerConfig(
        vocab_size=50, max_position_embeddings=12, hidden_size=16, num_hidden_layers=2, num_labels=K
    )
    model = CollapseTransformerForSequenceClassification(config).eval()
    batch = {**text_batch(20, torch.Generator().manual_seed(0)), "labels": torch.arange(20) % K}
    report = measure_collapse(model, [batch])
    statistics = ClassStatistics(K)
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    statistics.update(output.features.detach(), batch["labels"])
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-6)


def test_an_encoder_gives_pooled_features_and_says_that_it_has_no_classifier():
    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig(**SMALL_TEXT)).eval()
    batch = {**text_batch(20, torch.Generator().manual_seed(0)), "labels": torch.arange(20) % 7}
    report = measure_collapse(model, [batch])
    with torch.no_grad():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    pooled = [row[mask == 1].mean(0) for row, mask in zip(states, batch["attention_mask"], strict=True)]
    statistics = ClassStatistics(7)
    statistics.update(torch.stack(pooled), batch["labels"])
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
    assert "the measures of W are left out" in report.head
    assert "not measured: nc3 (the model has no classifier)" in str(report)


class Network(nn.Module):
    def __init__(self, after=None):
        super().__init__()
        relu = nn.ReLU()
        self.body = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, K), relu)
        self.first, self.second = nn.Linear(K, K), nn.Linear(K, K)
        self.unused = nn.Linear(K, K)
        self.after = after or (lambda first, second: first)

    def forward(self, x):
        hidden = self.body(x)
        return self.after(self.first(hidden), self.second(hidden))


def pairs(num_samples=20):
    torch.manual_seed(0)
    return [(torch.randn(num_samples, 6), torch.arange(num_samples) % K)]


class Stream(IterableDataset):
    """Samples that come one after the other, of a number that is not known before."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def test_a_torch_modules_classifier_is_the_layer_whose_output_it_returns():
    model = Network()
    report = measure_collapse(model, pairs(), measures="all")
    assert 'classifier "first"' in report.head
    statistics = ClassStatistics(K)
    inputs, labels = pairs()[0]
    statistics.update(model.body(inputs).detach(), labels)
    assert report["nc3"] == pytest.approx(measures.nc3(statistics, model.first.weight), rel=1e-6)


def test_a_head_that_is_not_linear_in_its_input_is_named_and_said_to_be_so():
    report = measure_collapse(Network(lambda first, second: first.tanh()), pairs(), classifier="first")
    assert 'classifier "first"' in report.head
    assert "the model's logits are not its output" in report.head


class CosineHead(nn.Linear):
    """Scaled cosines, and no norm of its own for 0 when it is not `safe`."""

    def __init__(self, *sizes, safe=True):
        super().__init__(*sizes, bias=False)
        self.safe = safe

    def forward(self, x):
        x = nn.functional.normalize(x) if self.safe else x / x.norm(dim=-1, keepdim=True)
        return 7 * x @ nn.functional.normalize(self.weight).T

    def acting(self):
        return nn.functional.normalize(self.weight)


class EightBitHead(nn.Linear):
    """The weight in 8 bits with a scale a row, and the inputs rounded to 8 bits too."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = self.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((self.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return (x / step).round() * step @ self.acting().T + self.bias

    def acting(self):
        return self.weight.float() * self.scale


class PackedWeight(torch.Tensor):
    """Says that it is float32 and knows a linear layer's product alone, as the 8-bit weights of libraries do."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.packed = (weight / self.scale).round().to(torch.int8)

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        if function is nn.functional.linear:
            inputs, weight, *bias = arguments
            return function(inputs, weight.packed * weight.scale, *bias)
        return super().__torch_function__(function, types, arguments, keywords or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten.detach.default:
            return arguments[0]
        raise NotImplementedError(f"{function} of packed weights")


class PackedHead(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        packed = PackedWeight(self.weight.detach())
        self.acting = lambda: packed.packed * packed.scale
        self.weight = nn.Parameter(packed, requires_grad=False)


class SquaringHead(nn.Linear):
    def forward(self, x):
        return super().forward(x) ** 2


def network_with(head):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), head)


@pytest.mark.parametrize(
    ("head", "remark"),
    [
        (CosineHead, "logits, W x/‖x‖ with a W that its weight does not hold"),
        (partial(CosineHead, safe=False), "logits, W x/‖x‖ with a W that its weight does not hold"),
        (EightBitHead, "logits, W x + b with a W that its weight does not hold"),
        (PackedHead, "logits, W x + b with a W that its weight does not hold"),
    ],
    ids=["cosine", "cosine of 0 undefined", "8 bits", "8 bits behind float32"],
)
def test_a_head_whose_weight_is_not_what_acts_is_measured_by_what_does(head, remark):
    torch.manual_seed(0)
    head = head(8, K)
    model = network_with(head)
    report = measure_collapse(model, pairs(), measures=["nc2", "nc3", "nc4"])
    inputs, labels = pairs()[0]
    features, acting = model[:2](inputs).detach(), head.acting().detach()
    statistics = ClassStatistics(K)
    statistics.update(features, labels)
    assert report.head.endswith(remark)
    assert report["nc2"] == pytest.approx(measures.nc2(acting), rel=1e-5)
    assert report["nc3"] == pytest.approx(measures.nc3(statistics, acting), rel=1e-5)
    logits = features @ acting.T + (0 if head.bias is None else head.bias)  # as nc4 says: of h, which 8 bits round
    nearest = torch.cdist(features.double(), statistics.class_means).argmin(1)
    assert report["nc4"] == pytest.approx(float((logits.argmax(1) != nearest).double().mean()))


def test_a_head_that_is_no_product_with_a_matrix_has_no_measures_of_w():
    report = measure_collapse(network_with(SquaringHead(8, K)), pairs())
    assert "its output is the model's logits, but it is not W x + b: the measures of W are left out" in report.head
    assert "nc1" in report.layers[-1].values
    assert report.layers[-1].left_out["nc3"] == "the classifier's output is not W x + b"
    with pytest.raises(ValueError, match=r"nc3 have no value .*, as the classifier's output is not W x \+ b: add nc1"):
        measure_collapse(network_with(SquaringHead(8, K)), pairs(), measures="nc3")


def test_a_parametrised_weight_is_the_one_that_acts():
    head = nn.utils.parametrizations.weight_norm(nn.Linear(8, K))
    head.parametrizations.weight.original0.data *= torch.arange(1.0, K + 1).unsqueeze(1)
    report = measure_collapse(network_with(head), pairs())
    assert report.head.endswith("its output is the model's logits")
    assert report["nc2"] == pytest.approx(measures.nc2(head.weight), rel=1e-6)


def test_a_stream_of_samples_gives_what_a_list_of_batches_gives():
    model = Network()
    inputs, labels = pairs()[0]
    stream = Stream([{"x": x, "labels": label} for x, label in zip(inputs, labels, strict=True)])
    in_one = measure_collapse(model, pairs(), classifier="first")
    assert measure_collapse(model, stream, batch_size=7, classifier="first")["nc1"] == pytest.approx(in_one["nc1"])


class TwoInputs(Network):
    """Takes a tuple, or any names, and returns a tuple whose first part are the logits."""

    def forward(self, x=None, shift=None, **others):
        return super().forward(x + shift), others


@pytest.mark.parametrize("kind", ["tuple", "columns"])
def test_several_inputs_and_outputs_are_passed_on_as_they_are(kind):
    model = TwoInputs()
    inputs, labels = pairs()[0]
    shift = torch.randn(len(inputs), 6)
    data = [((inputs, shift), labels)]
    if kind == "columns":
        data = Dataset.from_dict({"x": inputs.tolist(), "shift": shift.tolist(), "label": labels.tolist()})
    report = measure_collapse(model, data, classifier="first")
    shifted = measure_collapse(model, [({"x": inputs + shift, "shift": 0 * shift}, labels)], classifier="first")
    assert report["nc1"] == pytest.approx(shifted["nc1"], rel=1e-5)


def test_a_decoder_without_a_padding_token_is_read_at_its_last_token():
    model = make_model("llama").eval()
    model.config.pad_token_id = None
    batches = [
        {"input_ids": torch.randint(1, 50, (1, 3 + i), generator=torch.Generator().manual_seed(i)),
         "labels": torch.tensor([i % K])}
        for i in range(3 * K)
    ]  # fmt: skip
    features = torch.cat([captured_input_of(model, "score", batch)[0][:, -1] for batch in batches])
    statistics = ClassStatistics(K)
    statistics.update(features, torch.arange(3 * K) % K)
    assert measure_collapse(model, batches)["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


@pytest.mark.parametrize("make_pair", [tuple, list, lambda pair: tuple(part.numpy() for part in pair)])
def test_a_pair_of_arrays_is_a_data_set(make_pair):
    model, (inputs, labels) = network_with(nn.Linear(8, K)), pairs()[0]
    expected = measure_collapse(model, [(inputs, labels)])
    report = measure_collapse(model, make_pair((inputs, labels)), batch_size=7)
    assert report["nc1"] == pytest.approx(expected["nc1"], rel=1e-6)


def test_one_logit_is_two_classes():
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL_TEXT | {"num_labels": 1})).eval()
    batch = {**text_batch(20, torch.Generator().manual_seed(0)), "labels": torch.arange(20) % 2}
    report = measure_collapse(model, [batch], measures=["nc1", "nc2", "nc3", "nc4"])
    assert "one logit for two classes" in report.head
    features, logits = captured_input_of(model, "classifier", batch)
    features = features.detach()
    statistics = ClassStatistics(2)
    statistics.update(features, batch["labels"])
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
    sides = 2.0 * batch["labels"] - 1
    cosines = nn.functional.cosine_similarity(features, model.classifier.weight.detach()) * sides
    assert report["nc3"] == pytest.approx(float(1 - cosines.mean()), rel=1e-5)
    assert report["nc2"] == pytest.approx(0, abs=1e-12)
    nearest = torch.cdist(features.double(), statistics.class_means).argmin(1)
    assert report["nc4"] == pytest.approx(float((nearest != (logits[:, 0] > 0)).double().mean()))
    with pytest.raises(ValueError, match="a label is 4, but the model has num_labels = 2 classes"):
        measure_collapse(model, [batch | {"labels": torch.arange(20) % 5}])


class HeadOfItsOwn(nn.Module):
    """Classifies by a 1×1 convolution, a bare parameter or a functional call with a scale."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.convolution = nn.Conv2d(8, K, 1)
        self.prototypes = nn.Parameter(torch.randn(K, 8))
        self.logit = nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.body(x)
        if self.kind == "convolution":
            return self.convolution(hidden[:, :, None, None]).flatten(1)
        if self.kind == "parameter":
            return hidden @ self.prototypes.T
        if self.kind == "one logit":
            return self.logit(hidden).squeeze(1)
        return nn.functional.linear(2 * hidden, self.prototypes, torch.arange(K).float())

    def weight(self):
        return {"convolution": self.convolution.weight, "scaled": 2 * self.prototypes}.get(self.kind, self.prototypes)


@pytest.mark.parametrize("kind", ["convolution", "parameter", "scaled"])
def test_the_features_of_a_weight_that_is_given_are_what_it_turns_into_the_logits(kind):
    torch.manual_seed(0)
    model = HeadOfItsOwn(kind).eval()
    inputs, labels = pairs()[0]
    report = measure_collapse(model, [(inputs, labels)], weight=model.weight(), measures=["nc1", "nc3", "nc4"])
    assert "classifier given (8 → 5) for the" in report.head
    features = model.body(inputs).detach()
    statistics = ClassStatistics(K)
    statistics.update(features, labels)
    weight = model.weight().detach().flatten(1)
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
    assert report["nc3"] == pytest.approx(measures.nc3(statistics, weight), rel=1e-5)
    nearest = torch.cdist(features.double(), statistics.class_means).argmin(1)
    assert report["nc4"] == pytest.approx(float((nearest != model(inputs).argmax(1)).double().mean()))


def test_one_logit_without_an_axis_of_its_own_is_two_classes():
    torch.manual_seed(0)
    model, inputs = HeadOfItsOwn("one logit").eval(), pairs()[0][0]
    report = measure_collapse(model, [(inputs, torch.arange(20) % 2)])
    assert 'classifier "logit" (8 → 1)' in report.head
    assert report["nc2"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": torch.randn(K, 8)}, "let what comes before W pass through a module, such as nn.Identity"),
        ({"weight": torch.randn(K, 8, 3, 3)}, r"weight must be classes × width \(K×d\), or K×d×1×1"),
        ({"bias": torch.randn(K)}, "bias goes with weight"),
        ({"weight": torch.randn(K, 8), "classifier": None}, "classifier is None and weight is given: take one"),
    ],
)
def test_a_weight_that_is_not_the_models_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        measure_collapse(HeadOfItsOwn("parameter"), pairs(), **options)


def test_a_sequence_to_sequence_model_is_measured_by_its_encoder():
    torch.manual_seed(0)
    config = T5Config(vocab_size=50, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=24, decoder_start_token_id=0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    batch = text_batch(20, torch.Generator().manual_seed(0))
    message = r"^the model is T5ForConditionalGeneration, which writes .*: measure its encoder, model\.get_encoder\(\)"
    with pytest.raises(ValueError, match=message):
        measure_collapse(model, [batch | {"labels": batch["input_ids"]}])
    assert measure_collapse(model.get_encoder(), [batch | {"labels": torch.arange(20) % K}])["nc1"] > 0


def test_an_encoder_makes_room_for_sorted_labels_a_few_times_only(monkeypatch):
    resized, sizes = ClassStatistics.resized, []
    monkeypatch.setattr(ClassStatistics, "resized", lambda self, size: (sizes.append(size), resized(self, size))[1])
    inputs, labels = torch.randn(300, 6), torch.arange(100).repeat_interleave(3)
    report = measure_collapse(nn.Linear(6, 4), (inputs, labels), classifier=None, batch_size=3)
    assert report.layers[-1].details["num_classes"] == 100
    assert len(sizes) <= 8
    with pytest.raises(ValueError, match="got 300000000 at position 1 among 2 samples: map them"):
        measure_collapse(nn.Linear(6, 4), (inputs[:2], torch.tensor([0, 300_000_000])), classifier=None)


def test_training_measured_on_fewer_layers_is_an_error():
    model = make_model("bert")
    training = measure_collapse(model, make_batches(model))
    with pytest.raises(ValueError, match=r"training has no layer 'bert\.encoder\.layer\.0'"):
        measure_collapse(model, make_batches(model), layers="all", training=training)


def test_several_possible_classifiers_are_an_error_that_lists_them():
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL_VISION, num_labels=K))
    with pytest.raises(ValueError, match=r'2 linear layers could be.*"cls_classifier".*"distillation_classifier"'):
        measure_collapse(model, make_batches(model))
    report = measure_collapse(model, make_batches(model), classifier="cls_classifier")
    assert "the model's logits are not its output" in report.head


def test_nc4_takes_a_second_pass_when_it_is_named_and_is_left_out_of_all():
    model = make_model("bert").eval()
    batches = make_batches(model)
    report = measure_collapse(model, batches, measures=["nc1", "nc4"], layers="last")
    means = report.statistics["features"].class_means
    mismatches, total = 0, 0
    for batch in batches:
        features, logits, labels = features_by_hand(model, "classifier", batch)
        nearest = torch.cdist(features.double(), means).argmin(1)
        mismatches, total = mismatches + int((nearest != logits.argmax(1)).sum()), total + len(labels)
    assert report["nc4"] == mismatches / total
    assert "second look" in measure_collapse(model, batches, measures="all").layers[-1].left_out["nc4"]


def test_test_samples_are_measured_about_the_training_means():
    model = make_model("bert").eval()
    train, test = make_batches(model, (20,)), make_batches(model, (10, 10))
    training = measure_collapse(model, train, layers="all")
    same = measure_collapse(model, train, layers="all", training=training)
    assert same["nc1"] == pytest.approx(training["nc1"], rel=1e-9)
    report = measure_collapse(model, test, training=training)
    statistics = HeldOutStatistics(
        report.statistics["features"],
        training.statistics["features"].class_means,
        training.statistics["features"].counts,
    )
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-9)
    assert "about the training set's class means" in str(report)


def test_modes_of_frozen_parts_come_back_and_no_hook_stays_even_after_an_error():
    model = make_model("bert").train()
    model.bert.encoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    batches = make_batches(model)
    batches[1]["labels"] = batches[1]["labels"] + 100
    with pytest.raises(ValueError, match=r"num_labels = 5 classes, 0 … 4"):
        measure_collapse(model, batches, layers="all")
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_causal_language_models_classes_are_its_next_tokens():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=12, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    batches = [text_batch(16, torch.Generator().manual_seed(seed)) for seed in range(3)]
    report = measure_collapse(model, batches, min_class_count=5)

    features, tokens = [], []
    for batch in batches:
        states, _ = captured_input_of(model, "lm_head", batch)
        shown = batch["attention_mask"][:, 1:] == 1
        features.append(states[:, :-1][shown])
        tokens.append(batch["input_ids"][:, 1:][shown])
    features, tokens = torch.cat(features), torch.cat(tokens)
    counts = tokens.bincount(minlength=50)
    classes = (counts >= 5).nonzero().flatten()
    assert 2 < len(classes) < int((counts > 0).sum())
    statistics = ClassStatistics(len(classes))
    kept = torch.isin(tokens, classes)
    statistics.update(features[kept], torch.searchsorted(classes, tokens[kept]))
    weight = model.lm_head.weight[classes].detach()
    assert report["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
    assert report["nc3"] == pytest.approx(measures.nc3(statistics, weight), rel=1e-5)
    assert report.num_rare_classes == int(((counts > 0) & (counts < 5)).sum())
    assert report.layers[-1].details["num_absent_classes"] == int((counts == 0).sum())
    second = measure_collapse(model, batches, min_class_count=5, measures=["nc1", "nc1_worst", "nc4"])
    worst = int((statistics.within_class_scatter / statistics.counts).argmax())
    assert second.layers[-1].details["nc1_worst_class"] == int(classes[worst])
    means = statistics.class_means
    nearest = torch.cdist(features[kept].double(), means).argmin(1)
    said = (features[kept].double() @ weight.double().T).argmax(1)
    assert second["nc4"] == pytest.approx(float((nearest != said).double().mean()))


class Storyteller(GPT2LMHeadModel):
    """A user's own class."""


class Adapted(nn.Module):
    """Tells where the model is that it was put into, as PEFT's models do, and hides its forward's names."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model

    def forward(self, *inputs, **named_inputs):
        return self.base_model(*inputs, **named_inputs)


def compiled(model):
    """Run once, after which its compiled code calls no hook that is registered later."""
    model = torch.compile(model, backend="eager")
    with torch.no_grad():
        model(**text_batch(2, torch.Generator().manual_seed(0)))
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    with torch.no_grad():
        model(**text_batch(2, torch.Generator().manual_seed(0)))
    return model


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPINGS = {
    "subclass": lambda model: model,
    "adapter": Adapted,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled adapter": lambda model: compiled(Adapted(model)),
    "adapter in compiled": lambda model: Adapted(compiled(model)),
    "data parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_language_models_classes_are_its_next_tokens_too(one_process, wrapping):
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=12, pad_token_id=0)
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(config).eval()
    inner = Storyteller(config).eval()
    inner.load_state_dict(plain.state_dict())
    data = Dataset.from_list([
        {name: row.tolist() for name, row in zip(batch, rows, strict=True)}
        for batch in [text_batch(32, torch.Generator().manual_seed(0))]
        for rows in zip(*batch.values(), strict=True)
    ])  # fmt: skip
    expected = measure_collapse(plain, data, min_class_count=2, layers="all")
    report = measure_collapse(WRAPPINGS[wrapping](inner), data, min_class_count=2, layers="all")
    assert "its label is the next token" in report.head
    assert report.model == "Storyteller"
    for row, plain_row in zip(report.layers, expected.layers, strict=True):
        assert row.values == pytest.approx(plain_row.values, rel=1e-6)


def test_a_wrapped_classifiers_label_is_its_own():
    model = make_model("llama").eval()
    batches = make_batches(model)
    expected = measure_collapse(model, batches)
    for wrapped in (Adapted(model), compiled(model), nn.DataParallel(model)):
        report = measure_collapse(wrapped, batches)
        assert "next token" not in report.head
        assert report["nc1"] == pytest.approx(expected["nc1"], rel=1e-6)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "empty"),
        ([(torch.zeros(4, 6),)], {}, "unlabeled"),
        ([{"x": torch.zeros(4, 6), "labels": torch.zeros(4)}], {}, "labels must be whole numbers"),
        ([(torch.zeros(4, 6), torch.zeros(4, K))], {}, r"of several labels a sample measure those with one"),
        ([{"x": torch.zeros(4, 6), "labels": torch.full((4,), -100)}], {}, "unlabeled"),
        (iter([]), {}, "only once"),
        ({"train": [], "test": []}, {}, r"several \(train, test\)"),
        ({"train": []}, {"split": "test"}, "split is 'test'"),
        (pairs(4), {}, "1 of 5 classes have no sample"),
        (pairs(), {"classifier": "head"}, r'classifier is \'head\'.*"first" \(5 → 5\)'),
        (pairs(), {"layers": "all"}, "no stack of blocks"),
        (pairs(), {"layers": ["body.9"]}, r"got \['body.9'\]"),
        (pairs(), {"measures": "nc9"}, "nc9"),
        (pairs(), {"pooling": "max"}, "pooling must be mean, first, last"),
        (pairs(), {"min_class_count": 5}, "fewer than 2 classes"),
        (pairs(), {"classifier": None, "measures": ["nc3"]}, "the model has no classifier: add nc1"),
        ([(torch.full((10, 6), float("nan")), torch.arange(10) % K)], {"classifier": "first"}, "NaN"),
        ([(x, "yes") for x in torch.randn(3, 6)], {}, r"whole numbers 0 … K − 1, got 'yes': number the names"),
        (Dataset.from_dict({"x": [[0.0] * 6], "label": ["no"]}), {}, r"got 'no': .*class_encode_column\(\"label\"\)"),
        ((torch.zeros(4, 6), torch.zeros(3)), {}, "inputs and labels of one length, got 4 and 3"),
        (pairs(), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (pairs(), {"min_class_count": 0}, "min_class_count must be at least 1, got 0"),
        (pairs(), {"split": "test"}, "split is 'test', but the data have no splits"),
        (Stream([]), {}, "the data are empty"),
        ([{"x": torch.zeros(4, 6)}], {}, "the data have no labels"),
        ([(torch.zeros(4, 6), torch.zeros(4, 2).long())], {"classifier": "first"}, "labels must be N, one an input"),
        (pairs(), {"layers": ["unused"], "classifier": "first"}, "layer 'unused' does not run in the model's forward"),
        (pairs(), {"layers": ["body.1"], "classifier": "first"}, "layer 'body.1' runs several times in one forward"),
        (pairs(), {"classifier": "unused"}, "which does not run in the model's forward pass"),
        (pairs(), {"classifier": "body.0"}, r"output has the shape \(2, 6\), but the model's logits have \(2, 5\)"),
        (
            Dataset.from_dict({"text": ["good"], "label": [0]}),
            {},
            "columns are text, label, and the model takes x: tokenize or process it first",
        ),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_why(data, options, message):
    with pytest.raises(ValueError, match=message):
        measure_collapse(Network(), data, **options)


def test_a_network_whose_logits_come_from_no_linear_layer_is_an_error_with_a_way_out():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU())
    model.append(nn.Unflatten(1, (4, 1)))
    model.append(nn.Conv1d(4, K, 1))
    model.append(nn.Flatten())
    with pytest.raises(ValueError, match=r"no linear layer has the model's 5 logits.*classifier=None"):
        measure_collapse(model, pairs())
    assert measure_collapse(model, pairs(), classifier=None)["nc1"] > 0


def test_reports_are_written_as_tables_and_figures(tmp_path):
    model = make_model("vit")
    report = measure_collapse(model, make_batches(model, (20,)), layers="all", measures="all")
    lines = report.write(tmp_path / "out" / "collapse.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("layer,pooling,width,num_samples,num_classes,nc0,")
    assert '"left_out"' in report.write(tmp_path / "collapse.json").read_text()
    from PIL import Image

    with Image.open(report.write(tmp_path / "collapse.png")) as figure:
        assert len(np.unique(np.asarray(figure.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with pytest.raises(ValueError, match=r"output must end in \.csv"):
        report.write(tmp_path / "collapse.txt")
    with pytest.raises(KeyError, match="second look"):
        report["nc4"]
