import type { FailureCode } from '../errors.ts';

/**
 * What each failure code means, and what a person does about it. The board and `unpackd status` show it below the sentence of a
 * failure. `test/docs/failures.test.ts` compares it with the table of docs/producers.md.
 */
export interface FailureAdvice {
  /** What is wrong. */
  readonly means: string;
  /** What to do. It repeats nothing that the sentence of the failure says, because the two are shown together. */
  readonly todo: string;
}

export const FAILURE_ADVICE: Readonly<Record<FailureCode, FailureAdvice>> = {
  INVALID_JOB: {
    means: 'the payload is wrong; the sentence names the field',
    todo: 'Correct the program that adds the jobs, and add the job again. A retry gives the same failure.',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    means: 'not an image (an artifact, Docker schema 1), or a layer that is encrypted or not a layer',
    todo: 'Nothing on this side. Mirror an image in place of it, or stop adding jobs for it.',
  },
  MANIFEST_INVALID: {
    means:
      'the documents do not say for certain which image is meant: the number of DiffIDs is not the number of layers, a digest or size is wrong, or an index is also a manifest',
    todo: 'Build or mirror the image again. Its documents in the bucket contradict each other.',
  },
  PLATFORM_NOT_FOUND: {
    means: 'the index has no image for the platform; the sentence lists the platforms that it has',
    todo: 'Set `platforms` in the payload to one that the index has, or mirror the missing platform.',
  },
  SOURCE_NOT_ALLOWED: {
    means: "the bucket is not in the worker's `UNPACK_BUCKETS`",
    todo: 'Add the bucket to UNPACK_BUCKETS of the workers and restart them, or use another bucket. Then retry the job.',
  },
  IMAGE_NOT_FOUND: {
    means: 'the tag or manifest does not exist (yet)',
    todo: 'Check in the bucket that the mirror has finished and that bucket, prefix and layout of the job are right. Then retry the job.',
  },
  BLOB_NOT_FOUND: {
    means: 'a layer or config is not in the bucket (yet)',
    todo: 'Mirror the image again, so that the missing blob is uploaded. Then retry the job.',
  },
  BLOB_DIGEST_MISMATCH: {
    means: 'the bytes in the bucket do not have the digest that the manifest names',
    todo: 'Upload the blob again: push or mirror the image once more. Then retry the job.',
  },
  BLOB_SIZE_MISMATCH: {
    means: 'the blob is longer or shorter than the manifest says',
    todo: 'Upload the blob again: push or mirror the image once more. Then retry the job.',
  },
  LAYER_CORRUPT: {
    means: 'the compressed stream or the archive is damaged, or bytes follow the compressed stream',
    todo: 'Push or mirror the image again. If the same failure comes back, the image was built damaged: build it again.',
  },
  DIFF_ID_MISMATCH: {
    means: 'the uncompressed layer does not have the digest that the config names',
    todo: 'Build the image again, because its config does not belong to its layers. A retry gives the same failure.',
  },
  LAYER_UNSAFE: {
    means: 'the archive tries to write outside its root',
    todo: 'Find out where the image comes from before anybody uses it. A retry gives the same failure.',
  },
  LIMIT_EXCEEDED: {
    means:
      'the layer is larger than a limit (`UNPACK_MAX_…`), or the file system cannot store it: attributes, names of one file, length of a file, a name or path that is too long. A zstd window of more than 512 MiB is also refused',
    todo: 'If the image is what it should be, raise the limit that the sentence names on the workers, or put the store on XFS. Then retry the job.',
  },
  SOURCE_UNAVAILABLE: {
    means: 'S3 does not answer, or answers with 5xx',
    todo: 'Run `unpackd doctor --bucket NAME` on the worker. If S3 is back, retry the job.',
  },
  SOURCE_DENIED: {
    means: "S3 refuses the worker's credentials",
    todo: 'The credentials have expired or lost a permission. Run `unpackd doctor --bucket NAME` on the worker, renew them, and retry the job.',
  },
  STORE_FULL: {
    means: 'no space or no inodes are left, or a quota is used up; the sentence says how much was free',
    todo: 'Run `unpackd gc --dry-run --until 20%` on the worker, then the same without `--dry-run`. Then retry the job.',
  },
  STORE_FAILED: {
    means: "the disk or the permissions on it failed, or the worker's machine lacks something else: open files, memory",
    todo: 'Read `dmesg` of the worker and run `unpackd doctor` there. Repair what it names, and retry the job.',
  },
  TIMED_OUT: {
    means: 'the attempt took longer than `UNPACK_JOB_TIMEOUT`',
    todo: 'Look at the log of the job for what was slow: S3, the disk, or a layer that another process has locked. Layers that were committed stay, so a retry continues from them.',
  },
  SHUTTING_DOWN: {
    means: 'the worker ended before the job did',
    todo: 'Start a worker if none runs, and retry the job. A longer UNPACK_GRACE lets jobs finish before a worker ends.',
  },
  STALLED: {
    means: 'the worker vanished while it had the job',
    todo: "Look for the OOM killer in `dmesg` of the worker's machine. Smaller UNPACK_JOBS or UNPACK_THREADS need less memory. Then retry the job.",
  },
  CANCELLED: {
    means: 'somebody cancelled the job',
    todo: 'Nothing, unless the image is needed: then retry the job or add it again.',
  },
  INTERNAL: {
    means: 'a bug in unpackd',
    todo: 'Retry the job. If it fails again, report the bug with the log of the job.',
  },
};
