import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { FailureCode } from '../../src/errors.ts';
import { type BlobDigest, digestOf } from '../../src/oci/digest.ts';
import { fetchBlob } from '../../src/source/fetch.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import type { S3Connection, SignatureRefusal, UrlGrant } from '../../src/source/source-spec.ts';
import { connectionTo } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { readAll } from '../support/lent.ts';
import { errorBody, type OddAnswer, type OddRequest, type Quirk, refuse, startOddS3 } from '../support/odd-s3.ts';

const MiB = 1024 * 1024;
const layer = randomBytes(12 * MiB + 5);
const layerDigest = digestOf(layer);
/** Too short for ranges, so that the requests do not depend on the speed of the machine. */
const oneRequest = randomBytes(8 * MiB);
const zipped = gzipSync(Buffer.concat([randomBytes(257), Buffer.from('ustar'), Buffer.alloc(9000)]));
const entry = { mediaType: 'application/vnd.oci.image.manifest.v1+json', digest: digestOf(Buffer.from('{}')), size: 2 };
const index = JSON.stringify({
  schemaVersion: 2,
  manifests: [{ ...entry, annotations: { 'org.opencontainers.image.ref.name': 'v1' } }],
});
const keyOf = (digest: BlobDigest): string => `blobs/${digest.replace(':', '/')}`;
const objects = new Map([
  [keyOf(layerDigest), layer],
  [keyOf(digestOf(oneRequest)), oneRequest],
  [keyOf(digestOf(zipped)), zipped],
  [keyOf(entry.digest), Buffer.from('{}')],
  ['index.json', Buffer.from(index)],
  ['docker/registry/v2/repositories/app/_manifests/tags/v1/current/link', Buffer.from(entry.digest)],
]);

/** A bucket with a quirk, and the reads of a worker. */
async function odd(quirk: Quirk, more: Partial<S3Connection> = {}) {
  const server = await startOddS3(objects, quirk);
  const connection = connectionTo(server.endpoint, more);
  const spec = { kind: 's3', bucket: 'images', prefix: '', connection } as const;
  const source = openSource({ ...spec, layout: { kind: 'oci' } });
  const granted = new GrantedBlobs();
  const registry = openSource({ ...spec, layout: { kind: 'distribution', repository: 'app' } });
  const blob = (bytes: Buffer) => ({ digest: digestOf(bytes), size: bytes.length });
  return {
    server,
    source,
    registry,
    /** Reads as an apply thread, which gets new URLs from the main thread. */
    async fetch(bytes = layer): Promise<Buffer> {
      const renew = async (refused: SignatureRefusal) => (await source.grant(blob(bytes), refused)) as UrlGrant; // S3 grants nothing else
      const grantedBlob = granted.open(await source.grant(blob(bytes)), undefined, renew);
      return readAll(fetchBlob(grantedBlob, blob(bytes), { firstDelay: 5 }));
    },
    document: () => readBlob(source, entry.digest, { limit: 1000, firstDelay: 5 }),
    async [Symbol.asyncDispose]() {
      source.close();
      granted.close();
      registry.close();
      server.close();
    },
  };
}

/** Breaks the first answer for the layer, so that the rest is requested. */
const breaking =
  (quirk: Quirk): Quirk =>
  (request, answer) => {
    if (request.key === keyOf(layerDigest) && request.before === 0) answer.endAfter = 5 * MiB;
    quirk(request, answer);
  };
const slow =
  (quirk: Quirk): Quirk =>
  (request, answer) => {
    if (request.key === keyOf(layerDigest)) answer.pace = { bytes: 64 * 1024, every: 2 };
    quirk(request, answer);
  };

const header =
  (line: string): Quirk =>
  (_request, answer) =>
    void answer.headers.push(line);
const ranged = (
  spoil: (request: OddRequest & { range: { from: number; to: number } }, answer: OddAnswer) => void,
): Quirk => {
  return (request, answer) => {
    const { range } = request;
    if (range !== undefined) spoil({ ...request, range }, answer);
  };
};
const contentRange = (write: (from: number, to: number, size: number) => string | undefined): Quirk =>
  ranged(({ range }, answer) => {
    const line = write(range.from, range.to - 1, layer.length);
    answer.headers = answer.headers.filter((one) => !one.startsWith('Content-Range'));
    if (line !== undefined) answer.headers.push(line);
  });
const etag =
  (write: (own: string, before: number) => string): Quirk =>
  (request, answer) => {
    answer.headers = answer.headers.map((line) =>
      line.startsWith('ETag: ') ? `ETag: ${write(line.slice(6), request.before)}` : line,
    );
  };
const ifMatch =
  (status: string, code: string): Quirk =>
  (request, answer) => {
    if (request.headers.has('if-match')) refuse(answer, status, code);
  };
const both =
  (...quirks: Quirk[]): Quirk =>
  (request, answer) => {
    for (const quirk of quirks) quirk(request, answer);
  };

describe('an image is read from a server', { timeout: 180_000 }, () => {
  for (const [what, quirk] of Object.entries<Quirk>({
    'without quirks': () => {},
    'that answers in chunks': (_request, answer) => {
      answer.length = 'chunked';
    },
    'that marks the end by closing the connection': (_request, answer) => {
      answer.length = 'none';
    },
    'whose Content-Range has no size': contentRange((from, to) => `Content-Range: bytes ${from}-${to}/*`),
    'whose Content-Range is written with an equals sign': contentRange(
      (from, to, size) => `Content-Range: bytes=${from}-${to}/${size}`,
    ),
    'whose Content-Range is in capitals': contentRange(
      (from, to, size) => `content-range: Bytes ${from}-${to}/${size}`,
    ),
    'that sends no Content-Range': contentRange(() => undefined),
    'that sends a Content-Range of other bytes': contentRange(
      (from, to, size) => `Content-Range: bytes ${from + 1}-${to + 1}/${size}`,
    ),
    'that sends a Content-Range of another size': contentRange(
      (from, to) => `Content-Range: bytes ${from}-${to}/${to - from + 1}`,
    ),
    'that sends a malformed Content-Range': contentRange(() => 'Content-Range: all of it'),
    'that sends half of the requested bytes': ranged(({ range }, answer) => {
      answer.body = answer.body.subarray(0, Math.ceil(answer.body.length / 2));
      answer.headers = [`Content-Range: bytes ${range.from}-${range.from + answer.body.length - 1}/${layer.length}`];
    }),
    'that sends more than the requested bytes': ranged(({ range }, answer) => {
      answer.body = layer.subarray(range.from);
    }),
    'that answers ranges with status 200': ranged((_request, answer) => {
      answer.status = '200 OK';
    }),
    'that ignores ranges': ranged((_request, answer) => {
      answer.status = '200 OK';
      answer.headers = [];
      answer.body = layer;
    }),
    'that refuses ranges with 400': ranged((_request, answer) => refuse(answer, '400 Bad Request', 'InvalidArgument')),
    'that refuses ranges with 416': ranged((_request, answer) =>
      refuse(answer, '416 Range Not Satisfiable', 'InvalidRange'),
    ),
    'that refuses ranges with 501': ranged((_request, answer) =>
      refuse(answer, '501 Not Implemented', 'NotImplemented'),
    ),
    'that refuses If-Match with 412': ifMatch('412 Precondition Failed', 'PreconditionFailed'),
    'that refuses If-Match with 501': ifMatch('501 Not Implemented', 'NotImplemented'),
    'with weak ETags': both(
      etag((own) => `W/${own}`),
      ifMatch('412 Precondition Failed', 'PreconditionFailed'),
    ),
    'with -gzip in its ETags': both(
      etag((own) => own.replace(/"$/, '-gzip"')),
      ifMatch('412 Precondition Failed', 'PreconditionFailed'),
    ),
    'with ETags that differ each time': etag((_own, before) => `"${before}"`),
    'with ETags that are not always quoted': etag((own, before) => (before > 0 ? own.replaceAll('"', '') : own)),
    'without ETags': (_request, answer) => {
      answer.headers = answer.headers.filter((line) => !line.startsWith('ETag'));
    },
    'that sends the length twice': (_request, answer) =>
      void answer.headers.push(`Content-Length: ${answer.body.length}`),
    'of HTTP/1.0': (_request, answer) => {
      answer.version = '1.0';
      answer.endAfter = Math.min(answer.endAfter, answer.body.length);
    },
    'that closes every connection': (_request, answer) => {
      answer.endAfter = Math.min(answer.endAfter, answer.body.length);
    },
    'without reasons': (_request, answer) => {
      answer.status = answer.status.slice(0, 3);
    },
    'with an empty header': header('x-amz-meta-a:'),
    'with a header in UTF-8': header('x-amz-meta-author: J\u00fcrgen \u2713'),
    'with 20 KB of headers': header(Array.from({ length: 5 }, (_, at) => `x-h${at}: ${'v'.repeat(4000)}`).join('\r\n')),
    'with Content-Encoding: gzip in its metadata': header('Content-Encoding: gzip'),
    'with Content-Encoding: aws-chunked in its metadata': header('Content-Encoding: aws-chunked'),
    'with an early hint': (_request, answer) => {
      answer.status = `103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 ${answer.status}`;
    },
    'that is too busy at first': (request, answer) => {
      if (request.before < 2) refuse(answer, '503 Slow Down', 'SlowDown');
    },
    'that has too many requests at first': (request, answer) => {
      if (request.before < 2) refuse(answer, '429 Too Many Requests', 'TooManyRequests');
    },
    'that reports a timeout of the request at first': (request, answer) => {
      if (request.before === 0) refuse(answer, '400 Bad Request', 'RequestTimeout');
    },
    'that answers with an error and status 200 at first': (request, answer) => {
      if (request.before === 0)
        Object.assign(answer, { headers: ['Content-Type: application/xml'], body: errorBody('InternalError') });
    },
    'that answers with an HTML page in chunks and status 200 at first': (request, answer) => {
      if (request.before === 0)
        Object.assign(answer, { headers: [], length: 'chunked', body: Buffer.from('<html>maintenance</html>') });
    },
    'that cuts every answer after 3 MiB': (_request, answer) => {
      answer.endAfter = Math.min(answer.endAfter, 3 * MiB);
    },
    'that redirects to itself with 307': redirecting('307 Temporary Redirect', 'TemporaryRedirect'),
    'that redirects to itself with 302': redirecting('302 Found', 'Found'),
    'that redirects to itself with 308': redirecting('308 Permanent Redirect', 'PermanentRedirect'),
    'of a bucket in another region': (request, answer) => {
      if (/us-east-1/.test(request.query.get('X-Amz-Credential') ?? '')) {
        refuse(answer, '301 Moved Permanently', 'PermanentRedirect', ['x-amz-bucket-region: eu-central-1']);
      }
    },
    'that names the region to sign for': (request, answer) => {
      if (/us-east-1/.test(request.query.get('X-Amz-Credential') ?? '')) {
        refuse(answer, '400 Bad Request', 'AuthorizationQueryParametersError', [], '<Region>eu-central-1</Region>');
      }
    },
  })) {
    test(what, async () => {
      for (const way of [(one: Quirk) => one, breaking, slow]) {
        await using bucket = await odd(way(quirk));
        assert.ok((await bucket.fetch()).equals(layer), `${way.name}: ${bucket.server.seen.length} requests`);
        if (way !== slow && way !== breaking) {
          assert.equal(String(await bucket.document()), '{}');
          assert.equal((await bucket.source.resolveTag('v1')).digest, entry.digest);
          assert.equal((await bucket.registry.resolveTag('v1')).digest, entry.digest);
        }
      }
    });
  }

  /** Redirects each key once to another bucket of the same server. */
  function redirecting(status: string, code: string): Quirk {
    let endpoint = '';
    return (request, answer) => {
      endpoint = `http://${request.headers.get('host')}`;
      if (request.query.has('X-Amz-Signature') && request.before % 2 === 0) {
        refuse(answer, status, code, [`Location: ${endpoint}/other/${request.key}`]);
      }
    };
  }

  test('with a latency of a second for ranges, with one request', async () => {
    await using bucket = await odd(
      ranged((_request, answer) => {
        answer.wait = 1000;
      }),
    );
    assert.ok((await bucket.fetch()).equals(layer));
    const [first] = bucket.server.seen;
    assert.equal(first?.range, undefined);
    assert.ok(bucket.server.seen.length <= 3, `${bucket.server.seen.length} requests`);
  });

  test('with slow connections, over a new one each time, without using up resumes', async () => {
    const minimumSpeed = { bytesPerSecond: 10 * MiB, over: 100 };
    await using bucket = await odd(
      (request, answer) => {
        if (request.key !== keyOf(layerDigest) || request.before > 4) return;
        answer.pace = { bytes: 1000, every: 10 };
      },
      { minimumSpeed, maxResumes: 0 + 1 },
    );
    assert.ok((await bucket.fetch()).equals(layer));
    assert.ok(bucket.server.seen.length > 5);
  });

  test('whose URLs expire in the middle of a layer', async () => {
    await using bucket = await odd((request, answer) => {
      if (request.before === 0) answer.endAfter = 5 * MiB;
      if (request.before === 1) refuse(answer, '403 Forbidden', 'AccessDenied');
      if (request.before === 2) answer.endAfter = 2 * MiB;
      if (request.before === 3) refuse(answer, '400 Bad Request', 'ExpiredToken');
    });
    assert.ok((await bucket.fetch(oneRequest)).equals(oneRequest));
    assert.deepEqual(
      bucket.server.seen.map(({ range }) => range?.from ?? 0),
      [0, 5 * MiB, 5 * MiB, 7 * MiB, 7 * MiB],
    );
  });
});

/** Answers with another body. */
const instead =
  (make: (request: OddRequest, answer: OddAnswer) => Buffer | string): Quirk =>
  (request, answer) => {
    answer.body = Buffer.from(make(request, answer));
  };

describe('a server', { timeout: 180_000 }, () => {
  for (const [what, code, pattern, quirk] of [
    [
      'that redirects to another host, which gets no signed request',
      'SOURCE_DENIED',
      /redirects to elsewhere\.example .*S3_ENDPOINT/,
      (_request, answer) =>
        refuse(answer, '307 Temporary Redirect', 'TemporaryRedirect', ['Location: http://elsewhere.example/images/x']),
    ],
    [
      'that redirects to a login page with 302',
      'SOURCE_UNAVAILABLE',
      /redirects to portal\.example/,
      (_request, answer) => refuse(answer, '302 Found', '', ['Location: http://portal.example/login']),
    ],
    [
      'that always redirects fails after three new URLs',
      'SOURCE_DENIED',
      /redirects to/,
      (request, answer) =>
        refuse(answer, '308 Permanent Redirect', '', [
          `Location: http://${request.headers.get('host')}/images/${request.key}`,
        ]),
    ],
    ['whose clock is always wrong', 'SOURCE_DENIED', /RequestTimeTooSkewed/, skewed],
    [
      'that always denies is asked once',
      'SOURCE_DENIED',
      /AccessDenied/,
      (_request, answer) => refuse(answer, '403 Forbidden', 'AccessDenied'),
    ],
    [
      'that answers with an HTML page instead of a blob',
      'SOURCE_UNAVAILABLE',
      /error page/,
      (_request, answer) => {
        answer.headers = ['Content-Type: text/html'];
        answer.body = Buffer.from('<html>maintenance</html>');
      },
    ],
  ] as readonly (readonly [string, FailureCode, RegExp, Quirk])[]) {
    test(what, async () => {
      await using bucket = await odd(quirk, { maxResumes: 1 });
      assert.match((await fails(code, bucket.fetch())).message, pattern);
      assert.ok(bucket.server.seen.length <= 5);
      assert.ok(bucket.server.seen.every(({ headers }) => headers.get('host')?.startsWith('127.0.0.1')));
      await fails(code, bucket.source.resolveTag('v1'));
      await fails(code, bucket.document());
    });
  }

  function skewed(_request: OddRequest, answer: OddAnswer): void {
    refuse(answer, '403 Forbidden', 'RequestTimeTooSkewed', [`Date: ${new Date(0).toUTCString()}`]);
  }

  test('with another clock gets signatures of its time', async () => {
    const now = Date.UTC(2031, 0, 1);
    await using bucket = await odd((request, answer) => {
      if (request.query.get('X-Amz-Date')?.startsWith('2031') === true) return;
      refuse(answer, '403 Forbidden', 'RequestTimeTooSkewed', [`Date: ${new Date(now).toUTCString()}`]);
    });
    assert.ok((await bucket.fetch()).equals(layer));
  });

  for (const warning of [['Warning: 214 UploadServer gunzipped'], ['x-goog-stored-content-encoding: gzip'], []]) {
    test(`that has decompressed a blob is reported, by ${warning[0] ?? 'the bytes'}`, async () => {
      await using bucket = await odd((_request, answer) => {
        answer.headers.push(...warning);
        answer.body = gunzipSync(zipped);
        answer.length = 'chunked';
      });
      assert.match((await fails('BLOB_SIZE_MISMATCH', bucket.fetch(zipped))).message, /decompressed it/);
    });
  }

  for (const [what, spoil] of [
    ['truncated', (own: Buffer) => own.subarray(0, 50)],
    ['empty', () => Buffer.alloc(0)],
    ['an HTML page', () => Buffer.from('<html>maintenance</html>')],
    ['an error of S3', () => errorBody('InternalError')],
    ['an error in JSON', () => Buffer.from('{"error":"busy"}')],
  ] as const) {
    test(`whose index or link is ${what} at first is asked again`, async () => {
      const quirk: Quirk = (request, answer) => {
        if (request.before < 2) answer.body = spoil(answer.body);
      };
      await using bucket = await odd(quirk);
      assert.equal((await bucket.source.resolveTag('v1')).digest, entry.digest);
      assert.equal((await bucket.registry.resolveTag('v1')).digest, entry.digest);
    });
  }

  test('whose index is always an HTML page is SOURCE_UNAVAILABLE, and always another document MANIFEST_INVALID', async () => {
    await using down = await odd(
      instead(() => '<html>maintenance</html>'),
      {
        maxResumes: 1,
      },
    );
    await fails('SOURCE_UNAVAILABLE', down.source.resolveTag('v1'));
    await fails('SOURCE_UNAVAILABLE', down.registry.resolveTag('v1'));
    await using wrong = await odd(
      instead(() => '{"a":1}'),
      { maxResumes: 1 },
    );
    await fails('MANIFEST_INVALID', wrong.source.resolveTag('v1'));
    await using other = await odd(
      instead(({ before }) => `{${before}`),
      {
        maxResumes: 1,
      },
    );
    await fails('SOURCE_UNAVAILABLE', other.source.resolveTag('v1'));
  });

  test('answers all lookups of a tag, though one of them aborts', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    await using bucket = await odd((_request, answer) => {
      answer.wait = 100;
      resolve();
    });
    const stop = new AbortController();
    const first = bucket.source.resolveTag('v1', stop.signal);
    const second = bucket.source.resolveTag('v1', stop.signal);
    await promise;
    stop.abort();
    const third = bucket.source.resolveTag('v1');
    await fails('INTERNAL', first);
    await fails('INTERNAL', second);
    assert.equal((await third).digest, entry.digest);
  });
});
