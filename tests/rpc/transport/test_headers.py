"""The header blocks of answers: encoded once, and understood on every connection."""

from __future__ import annotations

import hpack
import pytest

from katacsi.rpc.headers import ReadyEncoder

HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
TRAILERS = [("grpc-status", "0")]


def test_every_connection_understands_the_ready_blocks():
    """In any order and number, from any state of its table, a decoder reads what was meant."""
    refusal = [("grpc-status", "9"), ("grpc-message", "in use")]
    for blocks in ([HEADERS, TRAILERS] * 3, [refusal, TRAILERS, refusal, HEADERS], [TRAILERS, refusal]):
        encoder, decoder = ReadyEncoder(), hpack.Decoder()
        assert [decoder.decode(encoder.encode(block)) for block in blocks] == blocks


def test_bytes_and_text_are_the_same():
    """h2 gives either."""
    raw = [(name.encode(), value.encode()) for name, value in HEADERS]
    assert hpack.Decoder().decode(ReadyEncoder().encode(raw)) == HEADERS
    worded = [*raw, (b"grpc-message", b"in use")]
    encoder = ReadyEncoder()
    assert hpack.Decoder().decode(encoder.encode(worded)) == [*HEADERS, ("grpc-message", "in use")]
    assert len(encoder.header_table.dynamic_entries) > 0  # so it was not a ready one


def test_a_block_is_encoded_once(monkeypatch):
    """The second time, on whichever connection, no field is looked at."""
    first = ReadyEncoder().encode(HEADERS)
    monkeypatch.setattr(hpack.Encoder, "add", None)
    assert ReadyEncoder().encode(HEADERS) == first


def test_words_of_errors_are_not_kept():
    """A message is that of one answer; ten thousand of them must not push the ready blocks out."""
    encoder = ReadyEncoder()
    encoder.encode([("grpc-status", "9"), ("grpc-message", "in use")])
    (name, _), *_ = encoder.header_table.dynamic_entries
    assert name == b"grpc-message"


@pytest.mark.parametrize("size", [0, 100])
def test_a_client_hears_that_its_table_size_is_heeded(size):
    """A client that asks for a smaller table is answered in the next block, ready or not (RFC 7541, 4.2)."""
    encoder, decoder = ReadyEncoder(), hpack.Decoder()
    decoder.decode(encoder.encode(HEADERS))
    encoder.header_table_size = size
    decoder.max_allowed_table_size = size  # from now on it refuses a block that does not begin with the size
    assert decoder.decode(encoder.encode(HEADERS)) == HEADERS
    assert decoder.header_table_size == size
    assert decoder.decode(encoder.encode(TRAILERS)) == TRAILERS
