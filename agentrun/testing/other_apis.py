"""The other APIs of a provider: images, audio, uploads, jobs; and dialects of other vendors.

Each endpoint is minimal: it answers in the shape of the real API, bills each call once in the
ledger, and reads uploads. Except for ids and times, an answer depends on its request alone. The
other dialects (completions, Gemini, Ollama, Bedrock, Vertex) give the replies of the same rules as
chat completions.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from agentrun.testing import messages
from agentrun.testing.replies import Rule, choose
from agentrun.testing.speech import cut, event, mint, pieces, tokens
from agentrun.testing.wire import HttpAnswer, HttpRequest, json_answer

__all__ = ["answer", "describe"]

SOUND = b"ID3\x04\x00\xff\xfb"  # the first bytes of an MP3
PICTURE = b"\x89PNG\r\n\x1a\n"

Facts = dict[str, Any]
Maker = Callable[[HttpRequest, Facts, Sequence[Rule]], HttpAnswer | None]


def answer(request: HttpRequest, rules: Sequence[Rule]) -> HttpAnswer | None:
    """Answer a request to one of these APIs; None if its path belongs to none of them."""
    for pattern, make in _ENDPOINTS:
        if request.method == "POST" and (found := pattern.fullmatch(request.path)) is not None:
            facts = describe(request) | {k: unquote(v) for k, v in found.groupdict().items() if v}
            return make(request, facts, rules)
    return None


def describe(request: HttpRequest) -> Facts:
    """The facts of a request: its model, prompt, fields and uploaded files."""
    fields = _form(request) if _is_form(request) else request.content()
    fields = fields if isinstance(fields, dict) else {}
    prompt = _prompt_text(fields)
    return {
        "model": fields.get("model"),
        "turn": _turn(fields),
        "stream": fields.get("stream") in (True, "true"),
        "last_role": "user",
        "tool": None,
        "content": prompt,
        "conversation": prompt,
        "fields": fields,
    }


def _prompt_text(fields: Mapping[str, Any]) -> str:
    """The prompt of a request; its field depends on the API."""
    for name in ("prompt", "input"):
        if isinstance(fields.get(name), str):
            return str(fields[name])
    items = fields.get("contents") or fields.get("messages") or [{}]
    last = items[-1] if isinstance(items, list) and items else {}
    content = last.get("parts", last.get("content")) if isinstance(last, dict) else ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _turn(fields: Mapping[str, Any]) -> int:
    """How often the model has answered: some clients send each part of an answer by itself."""
    items = fields.get("contents") or fields.get("messages") or ()
    answers = itertools.groupby(item.get("role") in ("assistant", "model") for item in items)
    return sum(by_model for by_model, _ in answers)


# -- uploads ---------------------------------------------------------------------------------------


def _is_form(request: HttpRequest) -> bool:
    return request.headers.get("content-type", "").startswith("multipart/form-data")


def _form(request: HttpRequest) -> Facts:
    """The fields of a form, with digest and size of each file."""
    found = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    boundary = b"\r\n--" + (found[1] if found else "").encode()
    fields: Facts = {}
    for piece in (b"\r\n" + request.body).split(boundary)[1:-1]:
        head, _, value = piece.partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        if name is not None and b"filename" in head:
            file = {"sha256": hashlib.sha256(value).hexdigest(), "size": len(value)}
            fields.setdefault("files", []).append(file)
        elif name is not None:
            fields[name[1].decode()] = value.decode("utf-8", "replace")
    return fields


# -- images, audio, jobs ---------------------------------------------------------------------------


def _bill(facts: Facts, identifier: str, usage: Any, **more: Any) -> Facts:
    return {
        "response_id": identifier,
        "model": facts["model"],
        "turn": facts["turn"],
        "stream": facts["stream"],
        "usage": usage,
        **more,
    }


def _images(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    """An image; its bytes are derived from the prompt and the uploaded files."""
    fields = facts["fields"]
    seed = json.dumps([facts["content"], fields.get("files")]).encode()
    picture = base64.b64encode(PICTURE + hashlib.sha256(seed).digest() * 4).decode()
    asked = tokens(facts["content"]) or 1
    usage = {
        "input_tokens": asked,
        "input_tokens_details": {"text_tokens": asked, "image_tokens": 0},
        "output_tokens": 1056,
        "total_tokens": asked + 1056,
    }
    number = int(fields.get("n") or 1)
    body = {"created": int(time.time()), "data": [{"b64_json": picture}] * number, "usage": usage}
    return json_answer(body, effect=_bill(facts, mint("img_", 12), usage))


def _speech(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    sound = SOUND + hashlib.sha256(facts["content"].encode()).digest() * 16
    bill = _bill(facts, mint("snd_", 12), None)
    return HttpAnswer((sound[:100], sound[100:]), {"content-type": "audio/mpeg"}, effect=bill)


def _transcription(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    (file,) = facts["fields"].get("files") or [{"sha256": "", "size": 0}]
    text = f"{file['size']} bytes of sound, {file['sha256'][:8]}"
    usage = {"type": "duration", "seconds": 1 + file["size"] // 16_000}
    bill = _bill(facts, mint("trn_", 12), usage, files=[file])
    return json_answer({"text": text, "usage": usage}, effect=bill)


def _moderation(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    result = {"flagged": False, "categories": {}, "category_scores": {}}
    body: Facts = {"id": mint("modr-", 12), "model": "omni-moderation-latest", "results": [result]}
    return json_answer(body, effect=_bill(facts, body["id"], None))


def _token_count(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    count = tokens(json.dumps(facts["fields"].get("messages", facts["fields"].get("input"))))
    body = {"object": "response.input_tokens", "input_tokens": count}
    return json_answer(body, effect=_bill(facts, mint("cnt_", 12), None))


def _stored_object(kind: str, prefix: str, **more: Any) -> Maker:
    """A maker of an object that the provider stores (a file, a job); the answer holds its id."""

    def make(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
        identifier = mint(prefix, 16)
        own = {k: v for k, v in facts["fields"].items() if k not in ("files", "stream")}
        body = {"id": identifier, "object": kind, "created_at": int(time.time()), **more, **own}
        files = facts["fields"].get("files")
        return json_answer(body, effect=_bill(facts, identifier, None, files=files))

    return make


def _client_secret(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    body = {"value": mint("ek_", 24), "expires_at": int(time.time()) + 600, "session": {}}
    return json_answer(body, effect=_bill(facts, mint("sess_", 12), None))


def _compaction(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    usage = {"input_tokens": 40, "output_tokens": 10, "total_tokens": 50}
    body: Facts = {
        "id": mint("cmp_", 16),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [],
        "usage": usage,
    }
    return json_answer(body, effect=_bill(facts, body["id"], usage))


# -- other dialects --------------------------------------------------------------------------------


def _completion(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    text = choose(rules, facts).text or ""
    usage = _chat_usage(facts["content"], text)
    head: Facts = {
        "id": mint("cmpl-", 16),
        "object": "text_completion",
        "created": int(time.time()),
    }
    head["model"] = facts["model"]
    empty: Facts = {"index": 0, "logprobs": None, "finish_reason": None}
    bill = _bill(facts, head["id"], usage)
    if not facts["stream"]:
        choice = {**empty, "text": text, "finish_reason": "stop"}
        return json_answer({**head, "choices": [choice], "usage": usage}, effect=bill)
    chunks = [event({**head, "choices": [{**empty, "text": one}]}) for one in pieces(text, None)]
    last = event({**head, "choices": [{**empty, "text": "", "finish_reason": "stop"}]})
    kind = {"content-type": "text/event-stream"}
    return HttpAnswer((*chunks, last, b"data: [DONE]\n\n"), kind, streamed=True, effect=bill)


def _chat_usage(prompt: str, reply: str) -> Facts:
    used = {"prompt_tokens": tokens(prompt), "completion_tokens": tokens(reply)}
    return {**used, "total_tokens": sum(used.values())}


def _gemini(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    """Gemini's candidates; the path says whether they are streamed."""
    facts["stream"] = facts.pop("action") == "streamGenerateContent"
    reply = choose(rules, facts)
    text = reply.text or ""
    usage = {"promptTokenCount": tokens(facts["content"]), "candidatesTokenCount": tokens(text)}
    usage["totalTokenCount"] = sum(usage.values())
    calls = [
        {"functionCall": {"name": call.name, "args": call.arguments}} for call in reply.tool_calls
    ]

    def chunk(parts: Sequence[Facts], **more: Any) -> Facts:
        content = {"role": "model", "parts": list(parts)}
        return {"candidates": [{"index": 0, "content": content, **more}]}

    head: Facts = {
        "usageMetadata": usage,
        "modelVersion": facts["model"],
        "responseId": mint("", 16),
    }
    bill = _bill(facts, head["responseId"], usage)
    if not facts["stream"]:
        parts = [{"text": text}] * bool(text) + calls
        return json_answer({**chunk(parts, finishReason="STOP"), **head}, effect=bill)
    spelt = [chunk([{"text": one}]) for one in pieces(text, None)]
    spelt += [chunk([call]) for call in calls]
    spelt.append({**chunk([{"text": ""}], finishReason="STOP"), **head})
    kind = {"content-type": "text/event-stream"}
    chunks = tuple(b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in spelt)
    return HttpAnswer(chunks, kind, streamed=True, effect=bill)


def _ollama(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    """Ollama's lines. It streams unless the request has ``"stream": false``."""
    facts["stream"] = facts["fields"].get("stream") is not False
    chat = facts.pop("action") == "chat"
    reply = choose(rules, facts)
    text = reply.text or ""
    calls = [{"function": {"name": c.name, "arguments": c.arguments}} for c in reply.tool_calls]
    asks = {"tool_calls": calls} if calls else {}

    def line(part: str, asks: Mapping[str, Any], **more: Any) -> Facts:
        message = {"role": "assistant", "content": part, **asks}
        reply = {"message": message} if chat else {"response": part}
        return {"model": facts["model"], "created_at": "2026-01-01T00:00:00Z", **reply, **more}

    counts = {"prompt_eval_count": tokens(facts["content"]), "eval_count": tokens(text)}
    end = {"done": True, "done_reason": "stop", **counts}
    bill = _bill(facts, mint("oll_", 12), counts)
    if not facts["stream"]:
        return json_answer(line(text, asks, **end), effect=bill)
    lines = [line(one, {}, done=False) for one in pieces(text, None)]
    lines += [line("", asks, done=False)] * bool(calls) + [line("", {}, **end)]
    kind = {"content-type": "application/x-ndjson"}
    chunks = tuple(json.dumps(one).encode() + b"\n" for one in lines)
    return HttpAnswer(chunks, kind, streamed=True, effect=bill)


def _claude(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    """Anthropic's messages at Bedrock and Vertex: the path names the model.

    Bedrock streams them in frames of its own.
    """
    action = facts.pop("action")
    stream = action in ("invoke-with-response-stream", "streamRawPredict")
    body = {**facts["fields"], "model": facts["model"], "stream": stream}
    if wrong := messages.problem(body):
        return messages.refusal(400, wrong)
    reply = choose(rules, messages.describe(body))
    answer = messages.answer(body, cut(reply, body["max_tokens"]))
    if action != "invoke-with-response-stream":
        return answer
    framed = tuple(_frame("chunk", {"bytes": _payload(one)}) for one in answer.chunks)
    kind = {"content-type": "application/vnd.amazon.eventstream"}
    return HttpAnswer(framed, kind, streamed=True, effect=answer.effect)


def _payload(chunk: bytes) -> str:
    """The data of a server-sent event, as Bedrock wraps it."""
    return base64.b64encode(chunk.partition(b"data: ")[2].strip()).decode()


def _converse(request: HttpRequest, facts: Facts, rules: Sequence[Rule]) -> HttpAnswer:
    stream = facts.pop("action") == "converse-stream"
    text = choose(rules, facts).text or ""
    used = {"inputTokens": tokens(facts["content"]), "outputTokens": tokens(text)}
    usage = {**used, "totalTokens": sum(used.values())}
    bill = _bill({**facts, "stream": stream}, mint("cnv_", 12), usage)
    if not stream:
        message = {"role": "assistant", "content": [{"text": text}]}
        body = {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
        return json_answer(body, effect=bill)
    kind = {"content-type": "application/vnd.amazon.eventstream"}
    return HttpAnswer(tuple(_converse_frames(text, usage)), kind, streamed=True, effect=bill)


def _converse_frames(text: str, usage: Facts) -> Iterator[bytes]:
    yield _frame("messageStart", {"role": "assistant"})
    for one in pieces(text, None):
        yield _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": one}})
    yield _frame("contentBlockStop", {"contentBlockIndex": 0})
    yield _frame("messageStop", {"stopReason": "end_turn"})
    yield _frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}})


def _frame(name: str, value: Facts) -> bytes:
    """One frame of Amazon's event stream, with its checksums."""
    names = (
        (":event-type", name),
        (":content-type", "application/json"),
        (":message-type", "event"),
    )
    headers = b"".join(
        struct.pack("!B", len(key))
        + key.encode()
        + struct.pack("!BH", 7, len(text))
        + text.encode()
        for key, text in names
    )
    payload = json.dumps(value).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    frame = prelude + headers + payload
    return frame + struct.pack("!I", zlib.crc32(frame))


_ENDPOINTS: tuple[tuple[re.Pattern[str], Maker], ...] = tuple(
    (re.compile(pattern), make)
    for pattern, make in (
        (r"/v1/images/(generations|edits|variations)", _images),
        (r"/openai/deployments/[^/]+/images/(generations|edits)", _images),
        (r"/v1/audio/speech", _speech),
        (r"/v1/audio/(transcriptions|translations)", _transcription),
        (r"/v1/moderations", _moderation),
        (r"/v1/completions", _completion),
        (r"/v1/complete", _completion),
        (r"/v1/responses/input_tokens|/v1/messages/count_tokens", _token_count),
        (r"/v1/responses/compact", _compaction),
        (r"/v1/files", _stored_object("file", "file-", bytes=1, filename="f", status="processed")),
        (r"/v1/batches", _stored_object("batch", "batch_", status="validating")),
        (
            r"/v1/messages/batches",
            _stored_object("message_batch", "msgbatch_", processing_status="in_progress"),
        ),
        (r"/v1/videos", _stored_object("video", "video_", status="queued", progress=0)),
        (r"/v1/fine_tuning/jobs", _stored_object("fine_tuning.job", "ftjob-", status="queued")),
        (r"/v1/evals", _stored_object("eval", "eval_")),
        (r"/v1/vector_stores", _stored_object("vector_store", "vs_", status="completed")),
        (r"/v1/conversations", _stored_object("conversation", "conv_")),
        (r"/v1/assistants", _stored_object("assistant", "asst_")),
        (r"/v1/threads", _stored_object("thread", "thread_")),
        (r"/v1/threads/[^/]+/runs", _stored_object("thread.run", "run_", status="queued")),
        (r"/v1/realtime/client_secrets", _client_secret),
        (
            r"/v1(beta)?/models/(?P<model>[^/]+):(?P<action>generateContent|streamGenerateContent)",
            _gemini,
        ),
        (r"/api/(?P<action>chat|generate)", _ollama),
        (r"/model/(?P<model>[^/]+)/(?P<action>invoke|invoke-with-response-stream)", _claude),
        (
            r"/v1/projects/.*/models/(?P<model>[^/]+):(?P<action>rawPredict|streamRawPredict)",
            _claude,
        ),
        (r"/v1/models/(?P<model>[^/]+):(?P<action>rawPredict|streamRawPredict)", _claude),
        (r"/model/(?P<model>[^/]+)/(?P<action>converse|converse-stream)", _converse),
    )
)
