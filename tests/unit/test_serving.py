"""The service: additions in one batch, batches from single requests, and an answer in words to whatever is wrong."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
import torch
from transformers import BertConfig, BertModel

import course_lib as cl
from course_lib.bases import Base
from course_lib.serving import (
    Busy,
    MicroBatcher,
    Row,
    Served,
    Stopping,
    TooLong,
    create_app,
    load_async,
    measure_load,
    percentile,
    running,
)

NAMES = ("red", "green", "blue")


class Letters:
    """A tokenizer: a letter is a token, between two marks."""

    pad_token_id, padding_side = 0, "right"

    def __call__(self, text, verbose=True):
        return {"input_ids": [1, *(3 + ord(letter) % 40 for letter in text), 2]}


def tiny_base():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=2, max_position_embeddings=64)
    return Base("tiny", BertModel(config).eval().requires_grad_(False), Letters())


TASK = cl.tasks.Classification(3, max_length=24)


def save_addition(base, folder, seed, method=None, task=TASK):
    torch.manual_seed(seed)
    tuned = cl.attach(base, method or cl.additive.BottleneckAdapter(4), task=task)
    with torch.no_grad():
        for parameter in tuned.trainable_parameters():
            parameter.add_(torch.randn_like(parameter))
    return tuned.save(folder)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    place = tmp_path_factory.mktemp("additions")
    methods = [None, None, cl.additive.PromptTuning(3, init="random")]
    return [save_addition(base, place / name, seed, m) for seed, (name, m) in enumerate(zip(NAMES, methods))]


@pytest.fixture(scope="module")
def served(base, folders):
    return Served.from_folders(base, folders)


# --- the model side -----------------------------------------------------------------------------------------


def test_every_row_gets_its_own_addition(base, served, folders):
    texts = ["a", "some text", "another text", "the last of all"]
    rows = [served.row(text, name) for text in texts for name in NAMES]
    together = served.answer(rows)
    assert [answer["addition"] for answer in together] == list(NAMES) * 4
    for folder in folders:
        alone = cl.additive.load(base, folder)
        for text in texts:
            with torch.no_grad():
                scores = alone(input_ids=torch.tensor([Letters()(text)["input_ids"]])).logits.softmax(-1)[0]
            answer = together[texts.index(text) * 3 + NAMES.index(folder.name)]
            torch.testing.assert_close(torch.tensor(answer["scores"]), scores, atol=2e-6, rtol=0)
            assert answer["label"] == int(scores.argmax())
    assert len({tuple(answer["scores"]) for answer in together}) == len(together)


def test_a_text_is_never_cut_without_a_word(served):
    assert len(served.row("x" * 22, "red").ids) == 24
    with pytest.raises(TooLong, match="25 tokens, and these additions read 24"):
        served.row("x" * 23, "red")


def test_folders_that_do_not_go_together_are_refused(base, folders, tmp_path):
    with pytest.raises(cl.CourseError, match="at least one folder"):
        Served.from_folders(base, [])
    with pytest.raises(cl.CourseError, match="already"):
        Served.from_folders(base, [folders[0], folders[0]])
    other = save_addition(base, tmp_path / "other", 5, task=cl.tasks.Classification(4))
    with pytest.raises(cl.CourseError, match="Serve them apart"):
        Served.from_folders(base, [folders[0], other])
    untasked = save_addition(base, tmp_path / "plain", 5, task=None)
    with pytest.raises(cl.CourseError, match="answers for classifiers"):
        Served.from_folders(base, [untasked])


# --- batching -----------------------------------------------------------------------------------------------


class Machine:
    """Answers an item with its double; remembers its batches; may be held, and may fail."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, items):
        assert self.go.wait(10)
        self.batches.append(list(items))
        if "bad" in items:
            raise ValueError("bad")
        return [2 * item for item in items]


def batched(work, **options):
    """Run `work(batcher, machine)` with a batcher that is started and stopped."""
    machine = Machine()

    async def run():
        batcher = MicroBatcher(machine, **options)
        await batcher.start()
        try:
            return await work(batcher, machine)
        finally:
            machine.go.set()
            await batcher.stop()

    return asyncio.run(run()), machine


def test_requests_are_answered_together_and_each_gets_its_own_answer():
    async def work(batcher, machine):
        return await asyncio.gather(*(batcher.ask(i) for i in range(10)))

    answers, machine = batched(work, max_rows=4, max_wait=0.05)
    assert answers == [2 * i for i in range(10)]
    assert machine.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_oldest_waits_no_longer_than_it_may():
    async def work(batcher, machine):
        async def late(seconds, item):
            await asyncio.sleep(seconds)
            return await batcher.ask(item)

        await asyncio.gather(late(0, 1), late(0.6, 2), late(1.4, 3))

    _, machine = batched(work, max_rows=100, max_wait=1)
    assert machine.batches == [[1, 2], [3]]  # a clock that began anew with each arrival would wait for the third


def test_one_too_many_is_refused_and_those_before_are_answered():
    async def work(batcher, machine):
        machine.go.clear()
        asked = [asyncio.create_task(batcher.ask(0))]
        await asyncio.sleep(0.05)  # it is being computed
        asked += [asyncio.create_task(batcher.ask(i)) for i in range(1, 4)]
        await asyncio.sleep(0.05)  # and three wait
        with pytest.raises(Busy):
            await batcher.ask(4)
        machine.go.set()
        return await asyncio.gather(*asked)

    answers, machine = batched(work, max_rows=1, max_wait=0, max_queue=3)
    assert answers == [0, 2, 4, 6]
    assert len(machine.batches) == 4


def test_a_batch_that_fails_says_so_and_the_next_one_is_answered():
    async def work(batcher, machine):
        for _ in range(2):
            with pytest.raises(ValueError, match="bad"):
                await batcher.ask("bad")
        return await batcher.ask(7)

    assert batched(work, max_wait=0)[0] == 14


def test_a_client_that_went_away_is_not_computed_for():
    async def work(batcher, machine):
        machine.go.clear()
        asked = [asyncio.create_task(batcher.ask(i)) for i in range(3)]
        await asyncio.sleep(0.05)
        asked[1].cancel()
        machine.go.set()
        return await asyncio.gather(asked[0], asked[2])

    answers, machine = batched(work, max_rows=1, max_wait=0)
    assert answers == [0, 4]
    assert machine.batches == [[0], [2]]


def test_stopping_answers_what_waits_and_takes_nothing_new():
    async def run():
        machine = Machine()
        machine.go.clear()
        batcher = MicroBatcher(machine, max_rows=2, max_wait=5)
        await batcher.start()
        asked = [asyncio.create_task(batcher.ask(i)) for i in range(5)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(Stopping):
            await batcher.ask(9)
        machine.go.set()
        await asyncio.wait_for(stopping, 2)  # the five seconds are not waited for
        return await asyncio.gather(*asked)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8]


# --- HTTP, in process ---------------------------------------------------------------------------------------


def over_http(app, work):
    """`work(client)` with a client that calls the app directly, between its start and its end."""

    async def run():
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(
            transport=transport, base_url="http://service"
        ) as client:
            return await work(client)

    return asyncio.run(run())


def ask(client, text="some text", addition="red"):
    return client.post("/predict", json={"text": text, "addition": addition})


def test_the_right_request(served):
    answer = over_http(create_app(served), ask)
    assert answer.status_code == 200
    assert answer.json() == served.answer([served.row("some text", "red")])[0]


def body(**keys):
    return json.dumps(keys).encode()


WRONG = {
    "no json": (b"{text: hello", 400, "no JSON"),
    "nothing": (b"", 400, "no JSON"),
    "no utf-8": (b'{"text": "\xff"}', 400, "no JSON"),
    "deep": (b"[" * 60_000, 400, "no JSON"),
    "a list": (b"[1]", 400, "not a list"),
    "no text": (body(addition="red"), 400, '"text"'),
    "no addition": (body(text="a"), 400, '"addition"'),
    "a number": (body(addition="red", text=3), 400, '"text"'),
    "empty": (body(addition="red", text="  "), 400, '"text"'),
    "half a pair": (b'{"addition": "red", "text": "\\ud800"}', 400, "surrogate"),
    "unknown": (body(addition="pink", text="a"), 404, "red, green, blue"),
    "no addition at all": (body(addition="keys", text="a"), 404, "no addition called"),
    "too long": (body(addition="red", text="x" * 100), 413, "102 tokens"),
    "far too long": (body(addition="red", text="x" * 10**6), 413, "65,536 bytes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_gets_a_status_and_a_sentence_and_the_service_lives_on(served, what):
    content, status, words = WRONG[what]

    async def work(client):
        refused = await client.post("/predict", content=content)
        return refused, await ask(client), await client.get("/health")

    refused, right, health = over_http(create_app(served), work)
    assert refused.status_code == status
    assert words in refused.json()["error"]
    assert refused.json()["error"].endswith(".")
    assert right.status_code == 200
    assert health.json() == {"status": "ok", "additions": 3, "waiting": 0}


def test_other_addresses_and_methods(served):
    async def work(client):
        return await client.get("/nowhere"), await client.get("/predict"), await client.get("/additions")

    nowhere, get, additions = over_http(create_app(served), work)
    assert (nowhere.status_code, get.status_code) == (404, 405)
    assert "/metrics" in nowhere.json()["error"]
    assert "error" in get.json()
    assert additions.json() == {"additions": list(NAMES)}


def held(answer):
    """A served model whose answers wait for `go`."""
    go = threading.Event()

    def slowly(rows):
        assert go.wait(10)
        return answer(rows)

    return SimpleNamespace(names=list(NAMES), row=lambda text, addition: Row(addition, [1]), answer=slowly), go


def test_too_many_requests_get_429_and_the_others_their_answer():
    model, go = held(lambda rows: [{"label": 1}] * len(rows))

    async def work(client):
        asked = [asyncio.create_task(ask(client)) for _ in range(12)]
        await asyncio.sleep(0.1)
        go.set()
        answers = await asyncio.gather(*asked)
        return answers, await ask(client)

    answers, later = over_http(create_app(model, max_rows=2, max_wait=0, max_queue=4), work)
    statuses = [answer.status_code for answer in answers]
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) in range(4, 7)  # none, one or two in the model, four waiting
    refused = answers[statuses.index(429)]
    assert refused.headers["Retry-After"] == "1"
    assert "4 requests are waiting" in refused.json()["error"]
    assert later.status_code == 200


def test_a_model_that_fails_does_not_take_the_service_with_it():
    failures = iter([True, False])

    def answer(rows):
        if next(failures):
            raise RuntimeError("secret path")
        return [{"label": 1}] * len(rows)

    model = SimpleNamespace(names=list(NAMES), row=lambda text, addition: Row(addition, [1]), answer=answer)

    async def work(client):
        return await ask(client), await ask(client)

    failed, right = over_http(create_app(model), work)
    assert (failed.status_code, right.status_code) == (500, 200)
    assert "RuntimeError" in failed.json()["error"]
    assert "secret" not in failed.text


def test_metrics_count_by_addition_and_status(served):
    async def work(client):
        for addition in ("red", "red", "blue", "pink", "grey"):
            await ask(client, addition=addition)
        await asyncio.gather(*(ask(client) for _ in range(4)))
        return (await client.get("/metrics")).text

    text = over_http(create_app(served, max_wait=0.2), work)
    for line in ('requests_total{addition="red",status="200"} 6.0', 'requests_total{addition="blue",status="200"} 1.0',
                 'requests_total{addition="",status="404"} 2.0', "batch_rows_count 4.0", "batch_rows_sum 7.0",
                 "request_seconds_count 9.0", "waiting 0.0"):
        assert line in text, line


# --- the load generator -------------------------------------------------------------------------------------


def test_percentiles_are_values_that_occurred():
    values = list(range(1, 101))
    assert [percentile(values, q) for q in (1, 50, 95, 100)] == [1, 50, 95, 100]
    assert percentile([3, 1, 2], 50) == 2
    with pytest.raises(cl.CourseError, match="at least one"):
        percentile([], 50)


def test_the_warm_up_is_not_counted_and_refusals_are_no_latencies():
    calls = []

    def answer(rows):
        calls.append(len(rows))
        time.sleep(0.3 if len(calls) == 1 else 0.01)  # the first batch is slow
        return [{"label": 1}] * len(rows)

    model = SimpleNamespace(names=list(NAMES), row=lambda text, addition: Row(addition, [1]), answer=answer)
    rows = [{"text": "a", "addition": "red"}, {"text": "a", "addition": "pink"}]

    def load(warm_up):
        calls.clear()
        return over_http(create_app(model, max_wait=0), lambda client: load_async(
            client, rows, clients=1, requests=20, warm_up=warm_up))

    cold, warm = load(0), load(4)
    assert warm.statuses == {200: 10, 404: 10}
    assert len(warm.latencies) == 10
    assert cold.percentile(100) > 290
    assert warm.percentile(100) < 250
    assert warm.requests_per_second == pytest.approx(10 / warm.elapsed)
    assert "refused: {404: 10}" in str(warm)


# --- a real socket ------------------------------------------------------------------------------------------


def test_over_a_local_socket(served):
    rows = [{"text": f"text {i}", "addition": NAMES[i % 3]} for i in range(12)]
    with running(create_app(served)) as address:
        load = measure_load(address, rows, clients=4, requests=36, warm_up=4)
        assert load.statuses == {200: 36}
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as garbage:
            garbage.sendall(b"\x00\x01 this is no HTTP\r\n\r\n")
            assert b"400" in garbage.recv(100)
        with socket.create_connection((host, int(port)), timeout=5) as broken:  # goes away in the middle of a body
            broken.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = httpx.post(f"{address}/predict", json=rows[0], trust_env=False)
    assert answer.json() == served.answer([served.row("text 0", "red")])[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health", trust_env=False)


def test_a_port_that_is_taken_is_a_sentence():
    from course_lib.serving.running import listen

    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(cl.CourseError, match="Choose another port"):
            listen("127.0.0.1", taken.getsockname()[1])


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    from course_lib.__main__ import main

    monkeypatch.delitem(sys.modules, "course_lib.serving")
    monkeypatch.delattr(cl, "serving", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("course_lib.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve", "somewhere"]) == 1
    assert "needs fastapi" in capsys.readouterr().err


def test_the_command_serves_and_ends_gracefully(tmp_path):
    folder = save_addition(cl.load_base("minilm"), tmp_path / "reviews", 0, task=cl.tasks.Classification(2))
    command = [sys.executable, "-m", "course_lib", "serve", str(folder), "--port", "0", "--max-wait-ms", "700"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cl.runtime.root(),
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            said = process.stdout.readline()
            assert "Serving 1 additions to minilm on http://127.0.0.1:" in said, process.stderr.read()
            address = said.split(" on ")[1].split()[0]
            for _ in range(100):
                with contextlib.suppress(httpx.ConnectError):
                    httpx.get(f"{address}/health", trust_env=False)
                    break
            answers = []
            request = {"addition": "reviews", "text": "a fine film"}
            asking = threading.Thread(target=lambda: answers.append(
                httpx.post(f"{address}/predict", json=request, timeout=30, trust_env=False)))
            asking.start()
            time.sleep(0.2)  # it has been sent, and waits for company
            process.send_signal(signal.SIGTERM)
            asking.join()
            error = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert answers[0].status_code == 200
    assert error == ""
    assert process.returncode == -signal.SIGTERM  # uvicorn sends it once more, when everything has been answered
