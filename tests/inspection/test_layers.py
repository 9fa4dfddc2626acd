"""Which layers "all" stands for, and which axes of their states are averaged."""

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    PvtConfig,
    PvtForImageClassification,
    T5Config,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    WhisperConfig,
    WhisperForAudioClassification,
    XLMConfig,
    XLMForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from hf_ncollapse.inspection import measure_collapse
from hf_ncollapse.inspection.axes import axes_of
from hf_ncollapse.inspection.blocks import find_blocks
from hf_ncollapse.neural_collapse import measures
from hf_ncollapse.neural_collapse.class_statistics import ClassStatistics

K = 5
BART = BartConfig(
    vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_labels=K, pad_token_id=1, eos_token_id=2,
)  # fmt: skip
T5 = T5Config(
    vocab_size=50, d_model=16, num_layers=2, num_decoder_layers=1, num_heads=2, d_kv=8, d_ff=24, num_labels=K,
    pad_token_id=0, eos_token_id=2, decoder_start_token_id=0,
)  # fmt: skip
WHISPER = WhisperConfig(
    d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, num_labels=K, vocab_size=50, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
PVT = PvtConfig(
    image_size=64, hidden_sizes=[8, 8, 16, 16], depths=[1, 2, 1, 1], num_attention_heads=[1, 1, 2, 2], num_labels=K
)


def texts(num_texts=20):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 50, (num_texts, 12), generator=generator)
    tokens[:, -1] = 2
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def conv_block(width):
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


class ConvolutionalNetwork(nn.Module):
    """Stages beside each other in the model, as in torchvision's and timm's ResNets."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.layer1 = nn.Sequential(conv_block(8))
        self.layer2 = nn.Sequential(conv_block(8), conv_block(8))
        self.layer3 = nn.Sequential(*(conv_block(8) for _ in range(4)))
        self.fc = nn.Linear(8, K)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


class Permute(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class LinearBlock(nn.Module):
    """Acts on the last axis, as Swin's blocks do; may change the width."""

    def __init__(self, width, new_width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, new_width)

    def forward(self, x):
        return self.mlp(self.norm(x))


class ChannelsLastNetwork(nn.Module):
    """Stages of N×H×W×C in one Sequential, with a stem and something between, as in torchvision's Swin."""

    def __init__(self):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Permute())
        first = nn.Sequential(LinearBlock(8, 8), LinearBlock(8, 8))
        second = nn.Sequential(LinearBlock(16, 16), LinearBlock(16, 16))
        self.features = nn.Sequential(stem, first, LinearBlock(8, 16), second)
        self.head = nn.Linear(16, K)

    def forward(self, x):
        return self.head(self.features(x).mean((1, 2)))


@pytest.mark.parametrize(
    ("make_model", "expected"),
    [
        (ConvolutionalNetwork, ["layer1", "layer2", "layer3"]),
        (ChannelsLastNetwork, ["features.1", "features.3"]),
        (lambda: BartForSequenceClassification(BART),
         ["model.encoder.layers.0", "model.encoder.layers.1", "model.decoder.layers.0"]),
        (lambda: T5ForSequenceClassification(T5),
         ["transformer.encoder.block.0", "transformer.encoder.block.1", "transformer.decoder.block.0"]),
        (lambda: T5ForTokenClassification(T5), ["transformer.encoder.block.0", "transformer.encoder.block.1"]),
        (lambda: WhisperForAudioClassification(WHISPER), ["encoder.layers.0", "encoder.layers.1"]),
        (lambda: PvtForImageClassification(PVT),
         [f"pvt.encoder.block.{index}" for index in ("0.0", "1.0", "1.1", "2.0", "3.0")]),
        (lambda: nn.Sequential(nn.Linear(3, 4), *(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))),
         ["1", "2", "3"]),
    ],
    ids=["stages of a module", "stages of a sequence", "bart", "t5", "t5 encoder", "whisper encoder", "lists of lists",
         "blocks after a layer"],
)  # fmt: skip
def test_every_block_or_stage_is_found(make_model, expected):
    assert list(find_blocks(make_model())) == expected


@pytest.mark.parametrize("config", [BART, T5], ids=["bart", "t5"])
def test_an_encoders_and_a_decoders_blocks_are_measured(config):
    torch.manual_seed(0)
    model = (BartForSequenceClassification if config is BART else T5ForSequenceClassification)(config).eval()
    labels = torch.arange(20) % K
    report = measure_collapse(model, [{**texts(), "labels": labels}], layers="all")
    with torch.no_grad():
        output = model(**texts(), output_hidden_states=True)
    statistics = ClassStatistics(K)
    statistics.update(output.encoder_hidden_states[1].mean(1), labels)
    assert report.layers[0].values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


def test_blocks_that_put_time_first_are_averaged_over_time():
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=24, num_labels=K)
    model = XLNetForSequenceClassification(config).eval()
    batches = [{**texts(size), "labels": torch.arange(size) % K} for size in (12, 20)]  # 12 is the length, too
    report = measure_collapse(model, batches, layers="all")
    for row, index in zip(report.layers[:2], (1, 2), strict=True):
        statistics = ClassStatistics(K)
        for batch in batches:
            with torch.no_grad():
                output = model.transformer(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
            statistics.update(output.hidden_states[index].mean(1), batch["labels"])
        assert row.values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)


def test_parts_of_blocks_are_not_taken_for_blocks():
    config = XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2, num_labels=K)
    model = XLMForSequenceClassification(config)
    data = [{**texts(), "labels": torch.arange(20) % K}]
    message = (
        r'shared out among transformer\.attentions, .* name the modules .*: layers=\["transformer\.layer_norm2\.0"'
    )
    with pytest.raises(ValueError, match=message):
        measure_collapse(model, data, layers="all")
    assert len(measure_collapse(model, data, layers=["transformer.layer_norm2.0"]).layers) == 2


@pytest.mark.parametrize("size", [(32, 32), (32, 64)], ids=["square", "wide"])
@pytest.mark.parametrize("network", [ConvolutionalNetwork, ChannelsLastNetwork])
def test_maps_are_averaged_over_positions_wherever_the_channels_are(network, size):
    torch.manual_seed(0)
    model = network().eval()
    images, labels = torch.randn(20, 3, *size), torch.arange(20) % K
    report = measure_collapse(model, [(images, labels)], layers="all")
    positions = (2, 3) if network is ConvolutionalNetwork else (1, 2)
    states = {}
    for name, module in find_blocks(model).items():
        module.register_forward_hook(lambda _, inputs, output, name=name: states.__setitem__(name, output))
    with torch.no_grad():
        model(images)
    for row in report.layers[:-1]:
        statistics = ClassStatistics(K)
        statistics.update(states[row.layer].mean(positions), labels)
        assert row.values["nc1"] == pytest.approx(measures.nc1(statistics), rel=1e-5)
        assert row.width == states[row.layer].shape[1 if positions == (2, 3) else 3]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(8, 16), (2, 4, 4, 16), (0, 3, 1, 2)),
        (nn.Linear(8, 16), (2, 16, 4, 4), (0, 1, 2, 3)),  # permutes inside
        (nn.Linear(8, 16), (2, 16, 4, 16), (0, 3, 1, 2)),  # a map as high as it has channels
        (nn.Linear(8, 16), (2, 8, 16, 16), (0, 3, 1, 2)),  # a map as wide as it has channels
        (nn.Conv2d(8, 16, 1), (2, 16, 8, 16), (0, 1, 2, 3)),
        (nn.Conv2d(8, 16, 1), (2, 24, 16, 16), (0, 1, 2, 3)),  # concatenates its input
        (nn.Conv2d(8, 16, 1), (2, 4, 4, 16), (0, 3, 1, 2)),  # permutes inside
        (nn.ReLU(), (2, 8, 4, 6), (0, 1, 2, 3)),
        (nn.Linear(8, 16), (7, 2, 16), (1, 0, 2)),
        (nn.Linear(8, 16), (2, 7, 16), (0, 1, 2)),
        (nn.Linear(8, 16), (2, 16), (0, 1)),
    ],
)
def test_the_axes_of_states_are_told_by_their_sizes_and_the_layers_weights(layer, shape, expected):
    assert axes_of(layer, torch.empty(shape), 2) == expected
