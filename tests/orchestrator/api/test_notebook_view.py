"""In a notebook a result is input and restoration under a slider, and needs nothing else."""

import base64
from html.parser import HTMLParser

import imagecodecs
import numpy as np
import pytest

import gigarestore as gr

VOID = {"img", "input", "br"}


class Snippet(HTMLParser):
    """Collect the elements of a snippet and check that every one is closed."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.elements = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def decoded(image):
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    return imagecodecs.png_decode(base64.b64decode(data))


def test_a_result_is_two_pictures_under_a_slider(make_picture, quick):
    photo = make_picture(8, 12).transpose(1, 2, 0)
    restored = gr.restore(photo, **quick)

    snippet = Snippet(restored._repr_html_())

    fine, coarse = snippet.all("img")
    assert (fine["alt"], coarse["alt"]) == ("restored", "input")
    assert np.array_equal(decoded(fine), np.asarray(restored))
    assert np.array_equal(decoded(coarse), photo)  # the browser enlarges it
    (slider,) = snippet.all("input")
    assert slider["type"] == "range"
    assert "32 x 48 px" in snippet.text


def test_nothing_is_loaded_from_elsewhere(make_picture, quick):
    text = gr.restore(make_picture(8, 8, 1)[0], **quick)._repr_html_()

    assert "http" not in text
    assert "<script" not in text


def test_of_a_large_image_the_centre_is_shown_at_full_detail(make_picture, quick, monkeypatch):
    from orchestrator.api import html_view

    monkeypatch.setattr(html_view, "SIDE", 18)
    photo = make_picture(8, 12).transpose(1, 2, 0)
    restored = gr.restore(photo, **quick)

    snippet = Snippet(restored._repr_html_())

    fine, coarse = (decoded(image) for image in snippet.all("img"))
    assert np.array_equal(fine, np.asarray(restored)[8:24, 16:32])
    assert np.array_equal(coarse, photo[2:6, 4:8])
    assert "its centre of 16 x 16 px" in snippet.text


def test_what_outpainting_invents_lies_beside_the_input(make_picture, quick):
    photo = make_picture(32, 32).transpose(1, 2, 0)
    restored = gr.restore(photo, gr.Task.outpaint((0, 16, 0, 0)), **quick)

    _, given = (decoded(image) for image in Snippet(restored._repr_html_()).all("img"))

    assert np.array_equal(given[:, :32], photo)
    assert np.unique(given[:, 32:]).size == 1


def test_a_drawn_picture_stands_alone(quick):
    snippet = Snippet(gr.restore(task=gr.Task.generate((32, 32)), **quick)._repr_html_())

    (picture,) = snippet.all("img")
    assert decoded(picture).shape == (32, 32, 3)
    assert not snippet.all("input")


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_pictures_of_any_number_of_bands_are_shown(make_picture, quick, bands):
    pixels = make_picture(8, 8, bands).transpose(1, 2, 0)

    fine, _ = Snippet(gr.restore(pixels, axes="yxc", **quick)._repr_html_()).all("img")

    assert decoded(fine).shape == (32, 32, 3)
