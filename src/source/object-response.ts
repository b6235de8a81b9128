import { UnpackError } from '../errors.ts';
import type { Transfer } from '../http/client.ts';
import type { Body, Exchange } from '../http/connection.ts';
import { MalformedResponseError, type ResponseHead } from '../http/response-head.ts';
import type { Segment } from '../http/segment.ts';
import { watchSilence } from '../http/timeouts.ts';
import { type Refused, type S3Request, s3Error, s3Location } from './s3-errors.ts';

/** Longest answer to a refused request that is read for its reason, and milliseconds of silence until it is given up. */
const REASON_LIMIT = 64 * 1024;
const REASON_PATIENCE = 1000;

/** What is made of an answer's beginning. */
export interface AnswerReader {
  /**
   * The answer has bytes of the object.
   * @returns where in the object they begin; `undefined`: they are not wanted, and the connection is closed
   * @throws MalformedResponseError for an answer that is none; UnpackError
   */
  begin(head: ResponseHead): number | undefined;
  /** The answer is none: it says why. */
  refused(refused: Refused): void;
}

/** The answer for a segment: its bytes, or why there are none. */
export class ObjectResponse implements Exchange, Body {
  readonly #request: S3Request;
  readonly #segment: Segment;
  readonly #reader: AnswerReader;
  #transfer: Transfer | undefined;

  constructor(request: S3Request, segment: Segment, reader: AnswerReader) {
    this.#request = request;
    this.#segment = segment;
    this.#reader = reader;
  }

  asked(transfer: Transfer): Transfer {
    this.#transfer = transfer;
    return transfer;
  }

  begin(head: ResponseHead): Body | undefined {
    if (head.status !== 200 && head.status !== 206) {
      return new Reason((text) => {
        this.#transfer?.cancel();
        this.#reader.refused({ status: head.status, reason: head.reason, text, headers: head.headers });
      });
    }
    try {
      const from = this.#reader.begin(head);
      if (from === undefined) return undefined;
      this.#segment.answer(from);
      return this;
    } catch (error) {
      if (error instanceof UnpackError) this.#segment.fail(error);
      else if (error instanceof MalformedResponseError) this.#segment.fail(this.#unavailable(error));
      else throw error;
      return undefined;
    }
  }

  room(): Buffer {
    return this.#segment.room();
  }

  filled(count: number): boolean {
    return this.#segment.filled(count);
  }

  end(): void {
    this.#segment.end();
  }

  fail(cause: Error): void {
    this.#segment.fail(this.#unavailable(cause));
  }

  #unavailable(cause: Error): UnpackError {
    const where = s3Location(this.#request);
    if (cause instanceof MalformedResponseError) {
      return new UnpackError('SOURCE_UNAVAILABLE', `${where}: the answer ${cause.message}`, { cause });
    }
    if (!this.#segment.answered) return s3Error(cause, this.#request);
    return new UnpackError('SOURCE_UNAVAILABLE', `${where}: the connection broke (${cause.message})`, { cause });
  }
}

/** Reads what a refused request says of itself, as far as it comes. */
class Reason implements Body {
  readonly #bytes = Buffer.allocUnsafe(REASON_LIMIT);
  readonly #silence;
  readonly #tell: (reason: string) => void;
  #length = 0;
  #told = false;

  constructor(tell: (reason: string) => void) {
    this.#tell = tell;
    this.#silence = watchSilence(REASON_PATIENCE, () => this.end());
    this.#silence.arm();
  }

  room(): Buffer {
    return this.#bytes.subarray(this.#length % REASON_LIMIT);
  }

  filled(count: number): boolean {
    this.#length += count;
    if (this.#length === REASON_LIMIT) this.end();
    return !this.#told;
  }

  end(): void {
    if (this.#told) return;
    this.#told = true;
    this.#silence.disarm();
    this.#tell(this.#bytes.toString('latin1', 0, this.#length));
  }

  /** The status alone must do. */
  fail(): void {
    this.end();
  }
}
