import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen } from '../../dev/local-programs.ts';
import { UnpackError } from '../../src/errors.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { type FetchOptions, FetchStatistics, fetchBlob } from '../../src/source/fetch.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import type { UrlGrant } from '../../src/source/source-spec.ts';
import { eventually } from '../support/eventually.ts';
import { fails } from '../support/fails.ts';
import { write } from '../support/faulty-s3.ts';
import { readAll } from '../support/lent.ts';

const MiB = 1024 * 1024;

/** A grant for the blob of a server at `port`. */
function specOf(port: number, size: number, more: Partial<UrlGrant> = {}): UrlGrant {
  return {
    kind: 'signed-url',
    name: 's3://images',
    url: `http://127.0.0.1:${port}/images/blob?X-Amz-Signature=1`,
    size,
    request: { bucket: 'images', key: 'blob', endpoint: `http://127.0.0.1:${port}`, missing: 'BLOB_NOT_FOUND' },
    connectTimeout: 60_000,
    idleTimeout: 60_000,
    maxResumes: 0,
    ...more,
  };
}

const granted = new GrantedBlobs();
after(() => granted.close());

function read(spec: UrlGrant, content: Buffer, options: FetchOptions = {}) {
  const descriptor = { digest: digestOf(content), size: spec.size };
  return fetchBlob(granted.open(spec), descriptor, { firstDelay: 5, ...options });
}

const collect = (...parameters: Parameters<typeof read>): Promise<Buffer> => readAll(read(...parameters));

describe('an answer of a server', () => {
  const content = Buffer.from('hello');
  const sockets = new Set<Socket>();
  let requests: string[] = [];
  let answers: (readonly string[])[] = [];
  let port = 0;

  /** Sends the strings of the next answer, each with one write. Ends the connection if the last string is empty. */
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', async (request) => {
      requests.push(String(request));
      const answer = answers.shift() ?? [];
      for (const part of answer) {
        socket.write(part, 'latin1');
        await sleep(5);
      }
      if (answer.at(-1) === '') socket.end();
    });
  });

  before(async () => {
    port = await listen(server);
  });
  after(() => void server.close());
  afterEach(() => {
    for (const socket of sockets) socket.destroy();
    requests = [];
    answers = [];
  });

  const get = (...given: (readonly string[])[]) => {
    answers = given;
    return collect(specOf(port, content.length), content);
  };

  test('is requested with the signed URL', async () => {
    await get(['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello']);
    assert.deepEqual(requests, [
      `GET /images/blob?X-Amz-Signature=1 HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: keep-alive\r\n\r\n`,
    ]);
  });

  for (const [what, answer] of [
    ['in one piece', ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello']],
    ['byte by byte', [...'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello']],
    [
      'after others that announce it',
      [
        'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early',
        ' Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
      ],
    ],
    ['in chunks', ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n', '2\r\nlo\r', '\n0\r\n\r\n']],
    ['to the end of the connection', ['HTTP/1.1 200 OK\r\n\r\nhe', 'llo', '']],
    ['of HTTP/1.0', ['HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello']],
    [
      'with the connection closed after it',
      ['HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello', ''],
    ],
    [
      'with headers that mean nothing here',
      [`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(10_000)}\r\nContent-Length: 5\r\n\r\nhello`],
    ],
  ] as const) {
    test(`is read ${what}`, async () => {
      assert.equal(String(await get(answer)), 'hello');
    });
  }

  for (const [what, ...answer] of [
    ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n\r\n'],
    ['another version of HTTP', 'HTTP/2 200 OK\r\n\r\n'],
    ['a change of protocol', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n'],
    ['headers without an end', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(70_000)}`],
    ['a header without a name', 'HTTP/1.1 200 OK\r\nnonsense\r\n\r\nhello'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['a chunk without a length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n'],
    ['more bytes than its length', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more'],
    ['nothing', ''],
    ['half a status', 'HTTP/1.1 2', ''],
    ['fewer bytes than its length', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe', ''],
    ['chunks without an end', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n', ''],
    ['half of a body that ends with the connection', 'HTTP/1.1 200 OK\r\n\r\nhe', ''],
  ] as const) {
    test(`with ${what} is SOURCE_UNAVAILABLE and closes the connection`, async () => {
      const error = await fails('SOURCE_UNAVAILABLE', get(answer));
      assert.match(error.message, /s3:\/\/images/);
      await eventually('no connection is left', () => sockets.size === 0);
    });
  }

  for (const [status, code] of [
    ['301 Moved Permanently\r\nLocation: http://127.0.0.1:1/', 'SOURCE_DENIED'],
    ['307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/', 'SOURCE_DENIED'],
    ['302 Found', 'SOURCE_UNAVAILABLE'],
    ['304 Not Modified', 'SOURCE_UNAVAILABLE'],
    ['403 Forbidden', 'SOURCE_DENIED'],
    ['404 Not Found', 'BLOB_NOT_FOUND'],
    ['412 Precondition Failed', 'BLOB_DIGEST_MISMATCH'],
    ['416 Range Not Satisfiable', 'BLOB_SIZE_MISMATCH'],
    ['429 Too Many Requests', 'SOURCE_UNAVAILABLE'],
    ['503 Slow Down', 'SOURCE_UNAVAILABLE'],
  ] as const) {
    const [line] = status.split('\r\n');
    test(`with ${line} is ${code}, and no redirection is followed`, async () => {
      await fails(code, get([`HTTP/1.1 ${status}\r\nContent-Length: 0\r\n\r\n`]));
      assert.equal(requests.length, 1);
    });
  }

  const slowDown = '<Error><Code>RequestTimeout</Code><Message>made up by the test</Message></Error>';
  for (const [what, answer] of [
    ['with a length', [`HTTP/1.1 400 Bad Request\r\nContent-Length: ${slowDown.length}\r\n\r\n${slowDown}`]],
    [
      'in chunks',
      [
        'HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n',
        ...[...slowDown].map((one) => `1\r\n${one}\r\n`),
        '0\r\n\r\n',
      ],
    ],
    ['to the end of the connection', [`HTTP/1.1 400 Bad Request\r\n\r\n${slowDown}`, '']],
    ['that breaks off', [`HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n${slowDown}`, '']],
    ['over the limit', [`HTTP/1.1 400 Bad Request\r\n\r\n${slowDown}${'x'.repeat(100_000)}`]],
  ] as const) {
    test(`with an error document ${what} is reported with its message`, async () => {
      const error = await fails('SOURCE_UNAVAILABLE', get(answer));
      assert.match(error.message, /400 RequestTimeout \(made up by the test\)/);
    });
  }

  test('without the rest of its error document is reported by its status', async () => {
    answers = [['HTTP/1.1 404 Not Found\r\nContent-Length: 500\r\n\r\n<Error>']];
    await fails('BLOB_NOT_FOUND', collect(specOf(port, content.length, { idleTimeout: 5000 }), content));
    await eventually('no connection is left', () => sockets.size === 0);
  });

  test('comes over a reused connection, or over a new one if the server has closed it', async () => {
    const answer = ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'];
    await get(answer);
    await get(answer);
    assert.equal(sockets.size, 1);
    for (const socket of sockets) socket.once('data', () => socket.destroy());
    const statistics = new FetchStatistics();
    answers = [[], answer];
    await collect(specOf(port, content.length), content, { statistics });
    assert.equal(statistics.resumes, 0);
    assert.equal(requests.length, 4);
  });

  test('that arrives before its request is not used', async () => {
    await get([
      'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
      'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbogus',
    ]);
    await sleep(20);
    assert.equal(String(await get(['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'])), 'hello');
  });
});

/** A server with ranges, whose answers a test may replace. */
class RangeServer {
  readonly ranges: string[] = [];
  readonly headers: IncomingMessage['headers'][] = [];
  /** Answers that are not complete yet. */
  readonly sending = new Set<ServerResponse>();
  mostAtOnce = 0;
  readonly sockets = new Set<Socket>();
  /** Returns true if it has answered. */
  instead: (index: number, response: ServerResponse, from: number, to: number) => boolean | Promise<boolean> = () =>
    false;
  /** Milliseconds between two pieces of 64 KiB. */
  pause = 0;
  content: Buffer;
  readonly #server = createHttpServer((request, response) => void this.#answer(request, response));

  constructor(content: Buffer) {
    this.content = content;
    this.#server.on('connection', (socket: Socket) => {
      this.sockets.add(socket);
      socket.once('close', () => this.sockets.delete(socket));
    });
  }

  listen(): Promise<number> {
    return listen(this.#server);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #answer({ headers }: IncomingMessage, response: ServerResponse): Promise<void> {
    const index = this.ranges.length;
    this.ranges.push(headers.range ?? '');
    this.headers.push(headers);
    const [, first = '0', last = ''] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
    const from = Number(first);
    const to = last === '' ? this.content.length : Math.min(Number(last) + 1, this.content.length);
    if (await this.instead(index, response, from, to)) return;
    const etag = `"${digestOf(this.content).slice(7, 20)}"`;
    if (headers['if-match'] !== undefined && headers['if-match'] !== etag) {
      response.writeHead(412).end();
      return;
    }
    const length = { etag, 'content-length': to - from };
    if (headers.range === undefined) response.writeHead(200, length);
    else response.writeHead(206, { ...length, 'content-range': `bytes ${from}-${to - 1}/${this.content.length}` });
    this.sending.add(response);
    response.once('close', () => this.sending.delete(response));
    this.mostAtOnce = Math.max(this.mostAtOnce, this.sending.size);
    for (let at = from; at < to && !response.destroyed; at += 65_536) {
      const piece = this.content.subarray(at, Math.min(at + 65_536, to));
      if (this.pause > 0) await sleep(this.pause);
      if (at + piece.length === to) this.sending.delete(response);
      await write(response, piece);
    }
    response.end();
  }
}

describe('a large blob', () => {
  const content = randomBytes(40 * MiB + 12_345);
  let server: RangeServer;
  let spec: UrlGrant;

  const start = async (more: Partial<UrlGrant> = {}) => {
    server = new RangeServer(content);
    spec = specOf(await server.listen(), content.length, more);
  };
  afterEach(() => server.close());

  /** Checks that the first request was for everything, and that the ranges have no gaps and do not overlap. */
  const whole = ([first, ...ranges]: readonly string[]) => {
    assert.equal(first, '');
    const ends = ranges
      .map((range) => /^bytes=(\d+)-(\d+)$/.exec(range) ?? assert.fail(range))
      .map(([, from, last]) => [Number(from), Number(last) + 1] as const)
      .sort(([one], [other]) => one - other);
    for (const [index, [, end]] of ends.entries()) assert.equal(end, ends[index + 1]?.[0] ?? content.length);
  };

  test('comes with one request if the source is faster than the reader', async () => {
    await start();
    const got: Buffer[] = [];
    for await (const chunk of read(spec, content)) {
      got.push(Buffer.from(chunk));
      await sleep(5);
    }
    assert.ok(Buffer.concat(got).equals(content));
    assert.deepEqual(server.ranges, ['']);
  });

  test('comes with eight requests if the reader waits, each byte once, with the ETag of the first answer', async () => {
    await start();
    server.pause = 4;
    assert.ok((await collect(spec, content)).equals(content));
    whole(server.ranges);
    // two more are requested early
    assert.ok(server.mostAtOnce >= 8 && server.mostAtOnce <= 8 + 2, `${server.mostAtOnce} at once`);
    assert.equal(server.headers[0]?.['if-match'], undefined);
    for (const { 'if-match': etag } of server.headers.slice(1)) assert.notEqual(etag, undefined);
  });

  test('continues after any number of broken connections, at any offset', async () => {
    await start({ maxResumes: 1 });
    server.instead = async (_index, response, from, to) => {
      response.writeHead(from === 0 ? 200 : 206, {
        'content-length': to - from,
        'content-range': `bytes ${from}-${to - 1}/${content.length}`,
      });
      response.write(content.subarray(from, Math.min(to, from + 3 * MiB + 1000)));
      await sleep(5);
      response.socket?.destroy();
      return true;
    };
    const statistics = new FetchStatistics();
    assert.ok((await collect(spec, content, { statistics })).equals(content));
    assert.ok(statistics.resumes > 10);
    assert.equal(statistics.bytes, content.length);
  });

  for (const [what, answer] of [
    ['that is refused for a while', [503, {}]],
    ['of other bytes', [206, { 'content-range': `bytes 5-9/${content.length}` }]],
    ['of another object', [206, { 'content-range': 'bytes 0-4/5' }]],
    ['without Content-Range', [206, {}]],
    ['with everything', [200, {}]],
    ['that is missing', [404, {}]],
    ['that is denied', [403, {}]],
  ] as const) {
    test(`with a range ${what} comes with the first request`, async () => {
      await start();
      server.pause = 2;
      server.instead = (_index, response, from) => {
        if (from === 0) return false;
        response.writeHead(answer[0], { ...answer[1], 'content-length': 5 }).end('hello');
        return true;
      };
      assert.ok((await collect(spec, content)).equals(content));
      assert.ok(server.ranges.length > 1, 'a range was tried');
    });
  }

  test('that was replaced during the download is BLOB_DIGEST_MISMATCH', async () => {
    await start({ maxResumes: 3 });
    server.instead = async (index, response) => {
      if (index > 0) return false;
      const etag = `"${digestOf(content).slice(7, 20)}"`;
      response.writeHead(200, { etag, 'content-length': content.length }).write(content.subarray(0, MiB));
      await sleep(5);
      response.socket?.destroy();
      server.content = randomBytes(content.length);
      return true;
    };
    const error = await fails('BLOB_DIGEST_MISMATCH', collect(spec, content));
    assert.match(error.message, /replaced while it was read/);
  });

  test('with other bytes in a range is BLOB_DIGEST_MISMATCH', async () => {
    await start({ maxResumes: 3 });
    server.content = Buffer.from(content);
    server.content.writeUInt8(server.content.readUInt8(30 * MiB) ^ 1, 30 * MiB);
    await fails('BLOB_DIGEST_MISMATCH', collect(spec, content));
  });

  test('comes from a server without ranges, too, also after a broken connection', async () => {
    await start({ maxResumes: 1 });
    server.instead = async (index, response) => {
      response.writeHead(200, { 'content-length': content.length });
      if (index > 0) response.end(content);
      else response.write(content.subarray(0, MiB), () => setTimeout(() => response.socket?.destroy(), 5));
      return true;
    };
    assert.ok((await collect(spec, content)).equals(content));
  });

  test('fails with SOURCE_UNAVAILABLE after the idle timeout, and closes all connections', async () => {
    await start({ idleTimeout: 150 });
    const silent: ServerResponse[] = [];
    server.instead = (_index, response, from) => {
      silent.push(response);
      if (from === 0) response.writeHead(200, { 'content-length': content.length }).write(content.subarray(0, 2 * MiB));
      return true;
    };
    const error = await fails('SOURCE_UNAVAILABLE', collect(spec, content));
    assert.match(error.message, /no bytes came for 0\.15 s/);
    assert.ok(silent.length > 0);
    await eventually('no connection stays', () => silent.every((response) => response.destroyed));
  });

  test('closes all connections at once after an abort', async () => {
    await start();
    server.pause = 4;
    const abort = new AbortController();
    const reading = collect(spec, content, { signal: abort.signal });
    await eventually('there are several', () => server.sockets.size > 1);
    abort.abort(new UnpackError('TIMED_OUT', 'the attempt took too long'));
    await fails('TIMED_OUT', reading);
    // the server notices it at its next write
    await eventually('nothing is sent any more', () => server.sending.size === 0);
  });
});
