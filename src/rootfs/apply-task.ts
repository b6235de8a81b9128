import type { MessagePort } from 'node:worker_threads';
import type { LayerLimits } from '../archive/limits.ts';
import type { DiffTarget } from '../diff/target.ts';
import type { SerializedUnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { DigestAlgorithm } from '../oci/digest.ts';
import type { LentSpec } from '../source/source-spec.ts';
import type { AppliedDiff } from './applier.ts';

/** What an apply thread is given. Progress (`ApplyProgress`) comes back on the port. */
export interface ApplyTask {
  readonly source: LentSpec;
  /** Call native decompressors directly. */
  readonly native: boolean;
  readonly blob: Descriptor;
  readonly target: DiffTarget;
  readonly algorithm: DigestAlgorithm;
  readonly limits: LayerLimits;
  readonly port: MessagePort;
}

/** What an apply thread may be told meanwhile. */
export interface ApplyMessage {
  readonly abort: SerializedUnpackError;
}

export type ApplyOutcome = { readonly diff: AppliedDiff } | { readonly error: SerializedUnpackError };
