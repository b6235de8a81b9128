import { createHash, type Hash } from 'node:crypto';
import { type AsyncFunction, callAsync, libc } from './libc.ts';
import { type Library, NativeCode } from './native-code.ts';

export type HashAlgorithm = 'sha256' | 'sha512';

/** The digest of a stream of bytes. Dispose of it only when no call of `updateBeside` is pending. */
export interface StreamHash extends Disposable {
  /** Adds a piece, on this thread. */
  update(bytes: Buffer): void;
  /**
   * Adds a piece, on another thread if it is large enough. Until the promise settles, the piece must not change, and no
   * other method must be called.
   */
  updateBeside(bytes: Buffer): Promise<void>;
  /** The digest in lower-case hexadecimal. Call it once, after the last piece. */
  hex(): string;
}

/** For fewer bytes than this, a call on another thread costs more than it saves. */
const WORTH_HANDING = 64 * 1024;

/** EVP_MAX_MD_SIZE: the size of OpenSSL's longest digest in bytes. */
const MAX_DIGEST = 64;

/**
 * Node's own hashes run on the thread that calls them. For a single layer, that is half of the work of its thread. The
 * OpenSSL inside Node can be called from another thread.
 * @param where `beside` if `updateBeside` will be used. If OpenSSL cannot be called, `updateBeside` works on this thread.
 */
export function streamHash(algorithm: HashAlgorithm, where: 'here' | 'beside', openssl = OPENSSL): StreamHash {
  const found = where === 'beside' ? openssl.functions : undefined;
  return found === undefined ? new NodeHash(algorithm) : new OpensslHash(found, algorithm);
}

type Pointer = object;

interface Openssl {
  readonly create: () => Pointer | null;
  readonly free: (context: Pointer) => void;
  readonly algorithms: Readonly<Record<HashAlgorithm, () => Pointer>>;
  readonly begin: (context: Pointer, algorithm: Pointer, engine: null) => number;
  readonly update: ((context: Pointer, bytes: Buffer, length: number) => number) & AsyncFunction;
  readonly end: (context: Pointer, digest: Buffer, length: Buffer) => number;
}

/** Exported for tests, which pass a broken library. */
export function opensslIn(library: Library): NativeCode<Openssl> {
  return new NativeCode<Openssl>(
    () => ({
      create: library.func('void *EVP_MD_CTX_new()'),
      free: library.func('void EVP_MD_CTX_free(void *)'),
      algorithms: { sha256: library.func('void *EVP_sha256()'), sha512: library.func('void *EVP_sha512()') },
      begin: library.func('int EVP_DigestInit_ex(void *, void *, void *)'),
      update: library.func('int EVP_DigestUpdate(void *, const void *, size_t)'),
      end: library.func('int EVP_DigestFinal_ex(void *, void *, void *)'),
    }),
    (found) => digestOfAbc(found, 'sha256') === ABC.sha256 && digestOfAbc(found, 'sha512') === ABC.sha512,
  );
}

/** Loaded at the first use, and kept: see `NativeCode`. */
export const OPENSSL = opensslIn(libc);

/** The digests of `abc` (FIPS 180-2, appendices B.1 and C.1). */
const ABC: Readonly<Record<HashAlgorithm, string>> = {
  sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  sha512:
    'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
};

function digestOfAbc(found: Openssl, algorithm: HashAlgorithm): string {
  using hash = new OpensslHash(found, algorithm);
  hash.update(Buffer.from('a'));
  hash.update(Buffer.from('bc'));
  return hash.hex();
}

class OpensslHash implements StreamHash {
  readonly #openssl: Openssl;
  #context: Pointer | undefined;
  /** The piece that another thread reads. The reference prevents its garbage collection. */
  #piece: Buffer | undefined;

  constructor(found: Openssl, algorithm: HashAlgorithm) {
    this.#openssl = found;
    const context = found.create();
    if (context === null) throw new Error('there is no memory for a digest');
    this.#context = context;
    succeed(found.begin(context, found.algorithms[algorithm](), null));
  }

  update(bytes: Buffer): void {
    succeed(this.#openssl.update(this.#ready(), bytes, bytes.length));
  }

  async updateBeside(bytes: Buffer): Promise<void> {
    if (bytes.length < WORTH_HANDING) {
      this.update(bytes);
      return;
    }
    const context = this.#ready();
    this.#piece = bytes;
    try {
      succeed(await callAsync(this.#openssl.update, context, bytes, bytes.length));
    } finally {
      this.#piece = undefined;
    }
  }

  hex(): string {
    const digest = Buffer.alloc(MAX_DIGEST);
    const length = Buffer.alloc(4);
    succeed(this.#openssl.end(this.#ready(), digest, length));
    this[Symbol.dispose]();
    return digest.toString('hex', 0, length.readUInt32LE());
  }

  [Symbol.dispose](): void {
    if (this.#context === undefined) return;
    const context = this.#ready();
    this.#context = undefined;
    this.#openssl.free(context);
  }

  #ready(): Pointer {
    if (this.#context === undefined) throw new Error('the digest has been taken');
    if (this.#piece !== undefined) throw new Error('a piece is being digested');
    return this.#context;
  }
}

/** OpenSSL's functions return 1 on success. */
function succeed(result: number): void {
  if (result !== 1) throw new Error('OpenSSL could not digest');
}

class NodeHash implements StreamHash {
  readonly #hash: Hash;

  constructor(algorithm: HashAlgorithm) {
    this.#hash = createHash(algorithm);
  }

  update(bytes: Buffer): void {
    this.#hash.update(bytes);
  }

  async updateBeside(bytes: Buffer): Promise<void> {
    this.#hash.update(bytes);
  }

  hex(): string {
    return this.#hash.digest('hex');
  }

  [Symbol.dispose](): void {}
}
