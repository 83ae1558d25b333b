"""Answers that clients take slowly, or that do not come: nobody else waits for them."""

import asyncio
import gc
import json
import weakref

import pytest
from rest_framework.test import APIRequestFactory, force_authenticate

from scheduling.api import gate, sending
from scheduling.api.gate import Gate
from scheduling.api.views import TransitionList
from tests.scheduling.api.test_gate import scope_of

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"told"}


class Client:
    """Asks for something; takes the body when it may."""

    def __init__(self, path="/api/v1/transitions/"):
        self.scope = scope_of(path)
        self.taken = []
        self.may_take = asyncio.Event()

    async def receive(self):
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message):
        if message["type"] == "http.response.body":
            await self.may_take.wait()
        self.taken.append(message)

    def ask(self, door):
        return asyncio.ensure_future(door(self.scope, self.receive, self.send))

    @property
    def status(self):
        return self.taken[0]["status"]

    @property
    def problem(self):
        return json.loads(self.taken[1]["body"])


def serve(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 10))


def answering(*, size=None, parts=1):
    """Return an application that answers at once, in so many parts."""

    async def application(scope, receive, send):
        length = [] if size is None else [(b"content-length", b"%d" % size)]
        await send({**START, "headers": length})
        for number in range(parts):
            await send({**BODY, "more_body": number < parts - 1})

    return application


@pytest.fixture(autouse=True)
def _one_place(monkeypatch):
    monkeypatch.setattr(gate, "MOST_REQUESTS", 1)


class TestSlowClient:
    @pytest.mark.parametrize("parts", [1, 3])
    def test_holds_no_place_while_it_takes_its_answer(self, parts):
        async def scenario():
            door = Gate(answering(parts=parts))
            slow, quick = Client(), Client()
            quick.may_take.set()
            waiting = slow.ask(door)
            await asyncio.sleep(0.01)

            await quick.ask(door)
            assert (quick.status, waiting.done()) == (200, False)
            slow.may_take.set()
            await waiting

            bodies = [message.get("body") for message in slow.taken]
            assert bodies == [None, *[b"told"] * parts]

        serve(scenario)

    def test_that_takes_nothing_is_cut_off(self, monkeypatch):
        monkeypatch.setattr(sending, "SEND_SECONDS", 0.05)

        async def scenario():
            door = Gate(answering(parts=2))
            never, quick = Client(), Client()
            quick.may_take.set()

            await never.ask(door)
            await quick.ask(door)

            assert never.taken == [START]
            assert quick.status == 200

        serve(scenario)

    def test_of_the_oldest_answer_is_cut_off_where_they_are_too_large(self, monkeypatch):
        monkeypatch.setattr(sending, "MOST_UNTAKEN", 100)

        async def scenario():
            door = Gate(answering(size=60))
            clients = [Client() for _ in range(3)]
            asked = []
            for client in clients:
                asked.append(client.ask(door))
                await asyncio.sleep(0.01)

            assert [one.done() for one in asked] == [True, True, False]
            clients[2].may_take.set()
            await asked[2]
            assert len(clients[2].taken) == 2

        serve(scenario)

    def test_that_hangs_up_ends_what_is_made_for_it(self):
        ended = []

        async def application(scope, receive, send):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(scope["path"])

        async def scenario():
            door = Gate(application)
            for _ in range(2):
                asked = Client().ask(door)
                await asyncio.sleep(0.01)
                asked.cancel()
                await asyncio.wait({asked})
                await asyncio.sleep(0.01)

        serve(scenario)
        assert len(ended) == 2


@pytest.mark.django_db
class TestSentAnswer:
    def test_is_freed_without_the_collector(self, make_user, add_job):
        add_job()
        user = make_user("victor", group="viewer")
        request = APIRequestFactory().get("/api/v1/transitions/")
        force_authenticate(request, user=user)
        gc.collect()
        gc.disable()
        try:
            response = TransitionList.as_view()(request).render()
            assert b'"count":1' in response.content
            sent = weakref.ref(response)
            del response
            assert sent() is None
        finally:
            gc.enable()


class TestAnswerThatDoesNotCome:
    def test_is_503_and_holds_its_place_for_as_long_as_it_takes(self, monkeypatch):
        monkeypatch.setattr(gate, "ANSWER_SECONDS", 0.05)
        monkeypatch.setattr(gate, "WAIT_SECONDS", 0.05)

        async def scenario():
            goes_on = asyncio.Event()

            async def hanging(scope, receive, send):
                await goes_on.wait()
                await answering()(scope, receive, send)

            door = Gate(hanging)
            clients = [Client() for _ in range(3)]
            for client in clients:
                client.may_take.set()
            first, second, third = clients

            await first.ask(door)
            await second.ask(door)
            goes_on.set()
            await asyncio.sleep(0.01)
            await third.ask(door)

            for client, told in ((first, "does not come"), (second, "Too much")):
                assert client.status == client.problem["status"] == 503
                assert client.problem["code"] == "service_unavailable"
                assert told in client.problem["detail"]
                assert dict(client.taken[0]["headers"])[b"retry-after"] == b"5"
                assert len(client.taken) == 2
            assert third.status == 200

        serve(scenario)

    def test_of_a_page_is_waited_for(self, monkeypatch):
        monkeypatch.setattr(gate, "ANSWER_SECONDS", 0.01)

        async def application(scope, receive, send):
            await asyncio.sleep(0.1)
            await answering()(scope, receive, send)

        async def scenario():
            client = Client("/admin/scheduling/")
            client.may_take.set()
            await client.ask(Gate(application))
            assert client.status == 200

        serve(scenario)
