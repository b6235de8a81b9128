import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ChunkedDecoder } from '../../src/http/chunked.ts';
import { MalformedResponseError, parseResponseHead } from '../../src/http/response-head.ts';

const head = (...lines: string[]) => parseResponseHead(lines.join('\r\n'));

describe('the head of a response', () => {
  test('has a status, a reason and headers in any case', () => {
    const { status, reason, headers } = head('HTTP/1.1 206 Partial Content', 'ETag: "a b"', 'content-TYPE:\t x ');
    assert.equal(status, 206);
    assert.equal(reason, 'Partial Content');
    assert.deepEqual(
      [...headers],
      [
        ['etag', '"a b"'],
        ['content-type', 'x'],
      ],
    );
  });

  test('may have no reason, and empty or repeated headers', () => {
    assert.equal(head('HTTP/1.1 200 ').reason, '');
    assert.equal(head('HTTP/1.1 200').reason, '');
    const { headers } = head('HTTP/1.1 200 OK', 'x:', 'y: 1', 'Y: 2');
    assert.equal(headers.get('x'), '');
    assert.equal(headers.get('y'), '1, 2');
  });

  test('says how the end of the body is marked', () => {
    const bodyOf = (...lines: string[]) => head('HTTP/1.1 200 OK', ...lines).body;
    assert.equal(bodyOf('Content-Length: 12'), 12);
    assert.equal(bodyOf('Content-Length: 0'), 0);
    assert.equal(bodyOf('Content-Length: 5', 'Content-Length: 5'), 5);
    assert.equal(bodyOf('Content-Length: 5', 'Transfer-Encoding: identity'), 5);
    assert.equal(bodyOf('Transfer-Encoding: Chunked'), 'chunked');
    assert.equal(bodyOf('Transfer-Encoding: gzip, chunked'), 'until-close');
    assert.equal(bodyOf(), 'until-close');
    assert.equal(head('HTTP/1.1 204 No Content').body, 0);
    assert.equal(head('HTTP/1.1 304 Not Modified', 'Content-Length: 12').body, 0);
  });

  test('says whether the connection may be reused', () => {
    assert.equal(head('HTTP/1.1 200 OK').keepAlive, true);
    assert.equal(head('HTTP/1.1 200 OK', 'Connection: keep-alive').keepAlive, true);
    assert.equal(head('HTTP/1.1 200 OK', 'Connection: x, Close').keepAlive, false);
    assert.equal(head('HTTP/1.0 200 OK', 'Connection: keep-alive').keepAlive, false);
  });

  for (const lines of [
    [''],
    ['HTTP/2 200 OK'],
    ['HTTP/1.1 20 OK'],
    ['HTTP/1.1 099 OK'],
    ['HTTP/1.1 2000 OK'],
    ['HTTP/1.1  200 OK'],
    [' HTTP/1.1 200 OK'],
    ['<html>'],
    ['HTTP/1.1 200 O\u0000K'],
    ['HTTP/1.1 200 OK', ''],
    ['HTTP/1.1 200 OK', 'no colon'],
    ['HTTP/1.1 200 OK', ': no name'],
    ['HTTP/1.1 200 OK', 'space : before'],
    ['HTTP/1.1 200 OK', 'x: 1', ' folded'],
    ['HTTP/1.1 200 OK', 'x: 1\ny: 2'],
    ['HTTP/1.1 200 OK', 'x: 1\ry: 2'],
    ['HTTP/1.1 200 OK', 'x: \u0000'],
    ['HTTP/1.1 200 OK', 'Content-Length: -1'],
    ['HTTP/1.1 200 OK', 'Content-Length: +1'],
    ['HTTP/1.1 200 OK', 'Content-Length: 0x10'],
    ['HTTP/1.1 200 OK', 'Content-Length: 1.0'],
    ['HTTP/1.1 200 OK', 'Content-Length:'],
    ['HTTP/1.1 200 OK', 'Content-Length: 9999999999999999'],
    ['HTTP/1.1 200 OK', 'Content-Length: 5', 'Content-Length: 6'],
    ['HTTP/1.1 200 OK', 'Content-Length: 5, 6'],
    ['HTTP/1.1 200 OK', 'Content-Length: 5', 'Transfer-Encoding: chunked'],
  ]) {
    test(`is never ${JSON.stringify(lines.join('\r\n'))}`, () => {
      assert.throws(() => head(...lines), MalformedResponseError);
    });
  }
});

describe('a body in chunks', () => {
  const body = '5\r\nhello\r\n1;name="x"\r\n,\r\n00006 \r\n world\r\n0\r\nTrailer: x\r\n\r\n';

  test('is decoded, wherever the input is cut', () => {
    for (let length = 1; length <= body.length; length++) {
      const decoder = new ChunkedDecoder();
      let text = '';
      for (let at = 0; at < body.length; at += length) {
        assert.equal(decoder.done, false);
        decoder.write(Buffer.from(body.slice(at, at + length)), (data) => {
          text += String(data);
        });
      }
      assert.equal(text, 'hello, world');
      assert.equal(decoder.done, true);
    }
  });

  for (const bad of [
    'x\r\n',
    '-1\r\n',
    '\r\n',
    '5\nhello\r\n',
    '5\r\nhello!\r\n',
    '5\r\nhello\n',
    '10000000000000\r\n0000000000000'.replace('\r\n', ''),
    `${'1'.repeat(5000)}`,
    '0\r\n\r\nmore',
  ]) {
    test(`is not ${JSON.stringify(bad.slice(0, 30))}`, () => {
      const decoder = new ChunkedDecoder();
      assert.throws(() => decoder.write(Buffer.from(`${bad}\r\n`), () => {}), MalformedResponseError);
    });
  }
});
