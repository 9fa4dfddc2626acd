"""The image processor: the same pixels as in training, from any image, and errors for what is none."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hf_ncollapse import CollapseImageProcessor
from hf_ncollapse.data import DataArguments, load_classification_data
from hf_ncollapse.data.sources import load_source
from hf_ncollapse.data.subsets import draw_subsets


@pytest.fixture
def rgb_processor():
    mean = np.linspace(0, 1, 3 * 4 * 6).reshape(3, 4, 6)
    return CollapseImageProcessor(size={"height": 4, "width": 6}, num_channels=3, image_mean=mean)


@pytest.mark.parametrize("dataset", ["digits", "mnist-5k"])
def test_a_training_image_gets_the_very_bits_it_had_in_training(dataset, tmp_path):
    data = load_classification_data(dataset, train_samples=100)
    source = load_source(DataArguments(dataset))
    indices, _ = draw_subsets(source.train.labels, None, 10, 100, None, 0)
    data.processor.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)

    images = [Image.fromarray(image) for image in source.train.take(indices)]

    assert type(processor) is CollapseImageProcessor
    assert torch.equal(processor(images, return_tensors="pt")["pixel_values"], data.train.tensors["pixel_values"])
    one = processor(images[3], return_tensors="pt")["pixel_values"]
    assert torch.equal(one[0], data.train.tensors["pixel_values"][3])


def test_pixels_are_scaled_and_the_mean_image_is_subtracted(rgb_processor):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    expected = pixels.transpose(2, 0, 1) / 255 - np.linspace(0, 1, 3 * 4 * 6).reshape(3, 4, 6)
    for image in (Image.fromarray(pixels), pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels)):
        values = rgb_processor(image, return_tensors="np")["pixel_values"]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values[0], expected, atol=1e-6)


def test_other_sizes_and_modes_become_the_training_datas(rgb_processor):
    grey = CollapseImageProcessor(size={"height": 4, "width": 6})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    for mode in ("RGB", "RGBA", "L", "1", "P", "CMYK", "LA"):
        assert rgb_processor(image.convert(mode), return_tensors="pt")["pixel_values"].shape == (1, 3, 4, 6)
        assert grey(image.convert(mode), return_tensors="pt")["pixel_values"].shape == (1, 1, 4, 6)
    expected = np.asarray(image.convert("L").resize((6, 4), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(grey(image, return_tensors="np")["pixel_values"][0, 0], expected, atol=1e-6)


def test_an_image_file_is_taken_by_its_path(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    image.save(tmp_path / "image.png")
    processor = CollapseImageProcessor(size={"height": 6, "width": 8})
    values = processor(str(tmp_path / "image.png"), return_tensors="pt")["pixel_values"]
    assert torch.equal(values, processor(image, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 6), 0.5), "float64 values between 0.5 and 0.5; an array must hold raw pixel values"),
        (np.full((4, 6), 256), "values between 256 and 256"),
        (np.full((4, 6), -1), "values between -1 and -1"),
        (np.zeros((5, 6, 2)), r"shape \(5, 6, 2\)"),
        (np.zeros((2, 4, 6, 3)), r"shape \(2, 4, 6, 3\)"),
        (Image.new("I;16", (6, 4)), "only images of 8 bits a channel are taken"),
        (Image.new("F", (6, 4)), "mode 'F'"),
        ([], "images is empty"),
    ],
)
def test_what_is_no_8_bit_image_is_an_error(rgb_processor, image, message):
    with pytest.raises(ValueError, match=message):
        rgb_processor(image)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": {"height": 0, "width": 3}}, "each at least 1"),
        ({"size": {"shortest_edge": 3}}, "height"),
        ({"num_channels": 2}, "num_channels is 2"),
        ({"image_mean": np.zeros((1, 5, 5))}, r"image_mean has shape \(1, 5, 5\)"),
    ],
)
def test_an_impossible_processor_is_an_error(keywords, message):
    with pytest.raises(ValueError, match=message):
        CollapseImageProcessor(**keywords)


def test_a_keyword_that_the_processor_lacks_is_an_error(rgb_processor):
    with pytest.raises(ValueError, match="takes no 'do_rescale'"):
        rgb_processor(Image.new("RGB", (6, 4)), do_rescale=False)
