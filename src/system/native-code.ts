import type { libc } from './libc.ts';

/** A library whose functions can be looked up: `libc`, or another one that koffi has loaded. */
export interface Library {
  /** @throws Error when the library has no such function */
  func(definition: string): ReturnType<typeof libc.func>;
}

/** Why native functions are not used. */
export interface NativeProblem {
  /** `missing`: the library or one of its functions was not found. `wrong`: the known-answer test failed. */
  readonly kind: 'missing' | 'wrong';
  /** For a message: a clause without a full stop. */
  readonly text: string;
}

/**
 * Functions of a library that are called without Node's public API, because they are faster. At the first use they are
 * looked up and tested with an input whose output is known. If one is missing or the output is wrong, `functions` is
 * `undefined` and the caller must use Node's public API.
 *
 * Each library has one such object, in the module that calls it. The object holds nothing that must be closed. Each
 * thread has its own, so the test runs once per thread. Measured, looking up included: 0.5 ms for OpenSSL, 0.8 ms for
 * ISA-L, 0.4 ms for zstd.
 */
export class NativeCode<Functions> {
  readonly #lookUp: () => Functions;
  readonly #passesTest: (functions: Functions) => boolean;
  #functions: Functions | undefined;
  #problem: NativeProblem | undefined;

  /**
   * @param lookUp throws if the library or a function is missing
   * @param passesTest the known-answer test; it fails by returning false or by throwing
   */
  constructor(lookUp: () => Functions, passesTest: (functions: Functions) => boolean) {
    this.#lookUp = lookUp;
    this.#passesTest = passesTest;
  }

  /** `undefined` if the functions must not be used; `problem` has the reason. */
  get functions(): Functions | undefined {
    if (this.#functions === undefined && this.#problem === undefined) this.#load();
    return this.#functions;
  }

  /** `undefined` if the functions are in use. */
  get problem(): NativeProblem | undefined {
    return this.functions === undefined ? this.#problem : undefined;
  }

  #load(): void {
    let found: Functions;
    try {
      found = this.#lookUp();
    } catch (error) {
      this.#problem = { kind: 'missing', text: messageOf(error) };
      return;
    }
    try {
      if (this.#passesTest(found)) this.#functions = found;
      else this.#problem = { kind: 'wrong', text: 'its known-answer test gave a wrong answer' };
    } catch (error) {
      this.#problem = { kind: 'wrong', text: `its known-answer test failed: ${messageOf(error)}` };
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
