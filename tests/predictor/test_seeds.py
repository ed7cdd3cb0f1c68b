"""Seeds: equal seeds give equal pictures, alone or in a batch; the default is random."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from PIL import Image

from tests.predictor.pictures import largest_difference
from tests.serving import PREDICT, picture_of

PROMPT = "a green star on a white background"


def ask(client: httpx.Client, **parameters: object) -> httpx.Response:
    return client.post(PREDICT, json={"prompt": PROMPT, "parameters": parameters})


def test_the_same_seed_gives_the_same_pixels(client: httpx.Client) -> None:
    assert np.array_equal(picture_of(ask(client, seed=3)), picture_of(ask(client, seed=3)))


def test_another_seed_gives_other_pixels(client: httpx.Client) -> None:
    assert not np.array_equal(picture_of(ask(client, seed=3)), picture_of(ask(client, seed=4)))


def test_a_random_seed_is_reported_and_reproduces_the_picture(
    client: httpx.Client,
) -> None:
    first, second = ask(client), ask(client)

    assert first.headers["x-seed"] != second.headers["x-seed"]
    again = ask(client, seed=int(first.headers["x-seed"]))
    assert np.array_equal(picture_of(first), picture_of(again))


def test_each_picture_of_a_prompt_has_its_own_seed_that_reproduces_it(
    client: httpx.Client,
) -> None:
    response = ask(client, seed=100, num_images_per_prompt=3)

    predictions = response.json()["predictions"]
    assert [one["seed"] for one in predictions] == [100, 101, 102]
    last = Image.open(io.BytesIO(base64.b64decode(predictions[2]["image"]["b64"])))
    assert largest_difference(last, picture_of(ask(client, seed=102))) <= 2


def test_the_same_seed_gives_the_same_picture_in_a_batch(client: httpx.Client) -> None:
    alone = picture_of(ask(client, seed=9))

    with ThreadPoolExecutor(8) as callers:
        answers = callers.map(
            lambda index: ask(client, seed=9) if index == 4 else ask(client, seed=index), range(8)
        )
        batch = [picture_of(answer) for answer in answers]

    # Batches of different sizes round differently.
    assert largest_difference(alone, batch[4]) <= 2
    assert largest_difference(alone, batch[5]) > 2


def test_the_scheduler_of_one_request_does_not_change_the_next(client: httpx.Client) -> None:
    before = picture_of(ask(client, seed=5))
    other = picture_of(ask(client, seed=5, scheduler="euler"))
    after = picture_of(ask(client, seed=5))

    assert not np.array_equal(before, other)
    assert np.array_equal(before, after)
