import type { LayerLimits } from '../archive/tar-reader.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { DiffTarget } from '../diff/target.ts';
import type { SerializedUnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { DiffId } from '../oci/digest.ts';
import type { HttpRequestSpec, LentSpec, SignatureRefusal } from '../source/source-spec.ts';
import type { AppliedDiff, ApplyProgress } from './applier.ts';

/** One layer for an apply thread. */
export interface ApplyTask {
  readonly source: LentSpec;
  /** Call native decompressors directly. */
  readonly native: boolean;
  readonly blob: Descriptor;
  readonly target: DiffTarget;
  readonly findings: PassFindings | undefined;
  readonly diffId: DiffId;
  readonly limits: LayerLimits;
  /** How many layers this process is writing at the moment: one number, shared by all threads. */
  readonly writing: Int32Array<SharedArrayBuffer>;
}

/** What an apply thread is told: a task when it has none, another permission for it, to give it up, or to end. */
export type ApplyMessage =
  | { readonly task: ApplyTask }
  | { readonly renewed: { readonly spec: HttpRequestSpec } | { readonly error: SerializedUnpackError } }
  | { readonly abort: SerializedUnpackError }
  | { readonly end: true };

/** What it tells: progress now and then, that what it was lent is refused, and one outcome a task. */
export type ApplyReport =
  | { readonly progress: ApplyProgress }
  | { readonly refused: SignatureRefusal }
  | { readonly outcome: ApplyOutcome };

export type ApplyOutcome = { readonly diff: AppliedDiff } | { readonly error: SerializedUnpackError };
