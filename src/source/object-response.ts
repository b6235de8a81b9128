import { UnpackError } from '../errors.ts';
import type { Transfer } from '../http/client.ts';
import type { BodyHandler, ResponseHandler } from '../http/connection.ts';
import { MalformedResponseError, type ResponseHead } from '../http/response-head.ts';
import type { Segment } from '../http/segment.ts';
import { idleTimer } from '../http/timeouts.ts';
import { type Refused, type S3Request, s3Error, s3Location } from './s3-errors.ts';

/** Limits for reading an error document: its size in bytes, and the time in milliseconds without bytes. */
const ERROR_DOCUMENT_LIMIT = 64 * 1024;
const ERROR_DOCUMENT_TIMEOUT = 1000;

/** Decides what happens with a response. SignedObject implements it. */
export interface ResponseRules {
  /**
   * The response has bytes of the object.
   * @returns offset of its first byte in the object; `undefined` to close the connection without a failure
   * @throws MalformedResponseError, UnpackError
   */
  begin(head: ResponseHead): number | undefined;
  /** The response is an error. */
  refused(refused: Refused): void;
}

/** The response to the request for one segment: its bytes, or an error document. */
export class ObjectResponse implements ResponseHandler, BodyHandler {
  readonly #request: S3Request;
  readonly #segment: Segment;
  readonly #rules: ResponseRules;
  #transfer: Transfer | undefined;

  constructor(request: S3Request, segment: Segment, rules: ResponseRules) {
    this.#request = request;
    this.#segment = segment;
    this.#rules = rules;
  }

  /** The transfer of this response. @returns the same transfer */
  attach(transfer: Transfer): Transfer {
    this.#transfer = transfer;
    return transfer;
  }

  begin(head: ResponseHead): BodyHandler | undefined {
    if (head.status !== 200 && head.status !== 206) {
      return new ErrorDocument((text) => {
        this.#transfer?.cancel();
        this.#rules.refused({ status: head.status, reason: head.reason, text, headers: head.headers });
      });
    }
    try {
      const from = this.#rules.begin(head);
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

  buffer(): Buffer {
    return this.#segment.buffer();
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

/** Reads the body of an error response. If the body is cut short, the part that has arrived is used. */
class ErrorDocument implements BodyHandler {
  readonly #bytes = Buffer.allocUnsafe(ERROR_DOCUMENT_LIMIT);
  readonly #idle;
  readonly #onText: (text: string) => void;
  #length = 0;
  #ended = false;

  constructor(onText: (text: string) => void) {
    this.#onText = onText;
    this.#idle = idleTimer(ERROR_DOCUMENT_TIMEOUT, () => this.end());
    this.#idle.start();
  }

  buffer(): Buffer {
    return this.#bytes.subarray(this.#length % ERROR_DOCUMENT_LIMIT);
  }

  filled(count: number): boolean {
    this.#length += count;
    if (this.#length === ERROR_DOCUMENT_LIMIT) this.end();
    return !this.#ended;
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#idle.stop();
    this.#onText(this.#bytes.toString('latin1', 0, this.#length));
  }

  fail(): void {
    this.end();
  }
}
