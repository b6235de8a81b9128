/**
 * The formats of the jobs, as types. `npm run schemas` makes this file from the schemas beside it, so change the schemas, not this
 * file. The JSON Schemas in `schemas/` are made from the same.
 */

/** The payload of a job, version 1. `checkPayload` knows the rules between its fields. */
export interface Payload {
  /** The version of this format. */
  readonly version: 1;
  /**
   * The reference of the image at the mirror. It is recorded, and never fetched from. For a worker with
   * UNPACK_SNAPSHOTTER=containerd it must be the name of an image: `[HOST/]REPOSITORY[:TAG][@DIGEST]`, which is the
   * name of the image in containerd then.
   */
  readonly image: string;
  /** The location of the blobs. */
  readonly source: {
    /**
     * The name of the bucket. Endpoint, region and credentials are settings of the worker. UNPACK_BUCKETS of the
     * worker can limit the allowed buckets.
     */
    readonly bucket: string;
    /** The folder in the bucket. Slashes at its ends are ignored. Default: the root of the bucket. */
    readonly prefix?: string | undefined;
    /**
     * `oci`: an OCI image layout under the prefix. `distribution`: the layout of the S3 driver of CNCF Distribution
     * (also Harbor), `docker/registry/v2/…` under the prefix. `keys`: blobs under keys that are made from `template`.
     */
    readonly layout: 'oci' | 'distribution' | 'keys';
    /**
     * For `distribution`: the repository of the tag. Default: `image` without registry host, tag and digest
     * (`docker.io/library/alpine:3` gives `library/alpine`).
     */
    readonly repository?: string | undefined;
    /**
     * For `keys`: the key of a blob under the prefix, with `{hex}` and optionally `{algorithm}`, for example
     * `blobs/{algorithm}/{hex}`.
     */
    readonly template?: string | undefined;
  };
  /** The digest of a manifest or an index. */
  readonly manifest?: string | undefined;
  /** A tag. The layout `keys` has none; in `oci` it is the annotation org.opencontainers.image.ref.name. */
  readonly tag?: string | undefined;
  /** The layers, bottom-most first. No manifest is read. */
  readonly layers?: readonly {
    /** The uncompressed layer. */
    readonly diff: {
      /** The DiffID: the digest of the uncompressed tar. */
      readonly digest: string;
      /** Not used; allowed because descriptors have it. */
      readonly mediaType?: string | undefined;
      /** Not used; allowed because descriptors have it. */
      readonly size?: number | undefined;
    };
    /** The stored blob of the layer: an OCI descriptor. */
    readonly blob: {
      /** The media type of a layer. The compression is detected from the bytes of the blob, not from this field. */
      readonly mediaType: string;
      /** The digest of the stored blob. */
      readonly digest: string;
      /** The size of the stored blob in bytes. */
      readonly size: number;
      /** Not used. */
      readonly annotations?: Readonly<Record<string, string>> | undefined;
      /** Never fetched from. */
      readonly urls?: readonly string[] | undefined;
    };
  }[] | undefined;
  /**
   * The images to unpack, if an index has several or several images have the tag. If there is no exact match, an
   * image for an older variant, or for a 32-bit architecture that the platform can run, is taken. `all`: every image;
   * entries that are not images are left out. Default: the platform of the worker.
   */
  readonly platforms?: 'all' | readonly string[] | undefined;
  /**
   * Labels of the snapshots that this job commits. A key and its value have at most 4096 bytes together (a rule of
   * containerd).
   */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** The result of a completed job, version 1. It is the `returnvalue` of the job. */
export interface UnpackResult {
  readonly version: 1;
  /** As in the payload. */
  readonly image: string;
  /** One image for each platform. */
  readonly images: readonly {
    /** os/architecture[/variant]; absent for explicit layers. */
    readonly platform?: string | undefined;
    /** Absent for explicit layers. */
    readonly manifestDigest?: string | undefined;
    /** Absent for explicit layers. */
    readonly configDigest?: string | undefined;
    /**
     * The chain ID of the top layer: the name of the snapshot to run a container on. Absent for an image without
     * layers, which has no snapshot.
     */
    readonly chainId?: string | undefined;
    /**
     * Whether all layers were synced to disk before this result. `false`: the worker runs with UNPACK_DURABLE=false,
     * and after a power cut, or on another mount of the store, a job unpacks the layers again. Absent in results of
     * earlier versions.
     */
    readonly durable?: boolean | undefined;
    /**
     * The names of the image in containerd, the one from `image` first; the last is the digest of its config, by
     * which the CRI service finds it. Absent for explicit layers, which have no image there, and for a store that is
     * not containerd's.
     */
    readonly names?: readonly string[] | undefined;
    /**
     * How a container of the image runs, from the config of the image. Fields that are missing, empty or of another
     * type there are absent. Above 32 KiB the labels are absent, or all fields. Absent for explicit layers, and in
     * results of earlier versions.
     */
    readonly config?: {
      /** The beginning of the command. */
      readonly entrypoint?: readonly string[] | undefined;
      /** The rest of the command, or the whole of it without `entrypoint`. */
      readonly cmd?: readonly string[] | undefined;
      /** Environment variables, `NAME=VALUE`. */
      readonly env?: readonly string[] | undefined;
      /** User and group, by name or number: `USER[:GROUP]`. */
      readonly user?: string | undefined;
      /** The working directory. */
      readonly workingDir?: string | undefined;
      /** The labels of the image. */
      readonly labels?: Readonly<Record<string, string>> | undefined;
      /** Ports, `PORT[/PROTOCOL]`. */
      readonly exposedPorts?: readonly string[] | undefined;
      /** Paths of volumes. */
      readonly volumes?: readonly string[] | undefined;
      /** The signal that stops the container. */
      readonly stopSignal?: string | undefined;
    } | undefined;
    /**
     * What mounts the image read-only on that machine, in this order: `mount -t TYPE SOURCE FOLDER -o OPTIONS`. Empty
     * for an image without layers; absent in results of earlier versions. The paths are valid until the snapshots are
     * removed or unpacked again.
     */
    readonly mounts?: readonly {
      readonly type: 'bind' | 'overlay';
      /** The directory to bind; `overlay` for an overlay. */
      readonly source: string;
      /** Options as for `mount -o`. */
      readonly options: readonly string[];
    }[] | undefined;
    /** The layers, bottom-most first; empty for an image without layers. */
    readonly layers: readonly {
      /** The DiffID: the digest of the uncompressed tar. */
      readonly diffId: string;
      /** The digest of this layer and all layers below it: the name of the snapshot in the store. */
      readonly chainId: string;
      /** The digest of the stored blob. */
      readonly blobDigest: string;
      /** `existed`: the layer was in the store already, and nothing was fetched or written for it. */
      readonly state: 'applied' | 'existed';
      /** The size of the stored blob in bytes. */
      readonly compressedBytes: number;
      /** The size of the tar in bytes; absent for a layer that existed. */
      readonly uncompressedBytes?: number | undefined;
      /** The number of entries of the tar; absent for a layer that existed. */
      readonly entries?: number | undefined;
      /** The time of each part of the work; absent for a layer that existed. */
      readonly timings?: {
        /** Waiting for the network, in milliseconds. */
        readonly fetchMs: number;
        /** Waiting for the decompressor, in milliseconds. */
        readonly decompressMs: number;
        /** Writing files, in milliseconds. */
        readonly writeMs: number;
        /** The whole work on the layer in the apply thread, in milliseconds. */
        readonly totalMs: number;
      } | undefined;
      /**
       * The times of the steps of the layer, in milliseconds since the lookup of the image began; absent for a layer
       * that existed. `unpackd status JOB --timeline FILE.svg` draws it.
       */
      readonly timeline?: {
        /** When the image was resolved, in milliseconds. */
        readonly queuedMs: number;
        /** When a thread started the layer, in milliseconds. */
        readonly startedMs: number;
        /** When the last entry was written, in milliseconds. */
        readonly unpackedMs: number;
        /** When the lower layers were committed, and the sync and commit of this layer began, in milliseconds. */
        readonly committingMs: number;
        /** When the layer was committed, in milliseconds. */
        readonly committedMs: number;
        /**
         * The progress from startedMs to unpackedMs. Each sample has five numbers: the time in milliseconds, bytes of
         * the blob, bytes of the tar, milliseconds waited for the network, milliseconds waited for the decompressor.
         * The last four are totals since startedMs.
         */
        readonly samples: readonly (readonly [number, number, number, number, number])[];
      } | undefined;
    }[];
  }[];
  readonly worker: {
    /** The name of the worker (UNPACK_WORKER_NAME), as in the board. */
    readonly name: string;
    /** The host name of the machine that has the snapshots. */
    readonly host: string;
  };
  readonly store: {
    /** The folder of the store on that machine. */
    readonly root: string;
    readonly snapshotter: 'overlay' | 'native';
    /** Where the image is in containerd. Absent if the store is not containerd's. */
    readonly containerd?: {
      /** The namespace with the images and snapshots. */
      readonly namespace: string;
      /** The name of the snapshotter there, such as `overlayfs`. */
      readonly snapshotter: string;
    } | undefined;
  };
  /** The start of the attempt that completed. */
  readonly startedAt: string;
  /** The duration of this attempt, in milliseconds. */
  readonly durationMs: number;
  /** The number of attempts, including this one. */
  readonly attempts: number;
  /**
   * One sentence for each thing that was left out, with the reason, and for each fault in the documents of the image,
   * with what it was treated as. Every job for the image reports the same faults of its documents.
   */
  readonly warnings: readonly string[];
}

/** The failure of an attempt, version 1. The progress of the job contains it. */
export interface Failure {
  readonly version: 1;
  /** For programs. Within a version codes are only added. */
  readonly code: 'INVALID_JOB' | 'UNSUPPORTED_MEDIA_TYPE' | 'MANIFEST_INVALID' | 'PLATFORM_NOT_FOUND' | 'SOURCE_NOT_ALLOWED' | 'IMAGE_NOT_FOUND' | 'BLOB_NOT_FOUND' | 'BLOB_DIGEST_MISMATCH' | 'BLOB_SIZE_MISMATCH' | 'LAYER_CORRUPT' | 'DIFF_ID_MISMATCH' | 'LAYER_UNSAFE' | 'LIMIT_EXCEEDED' | 'SOURCE_UNAVAILABLE' | 'SOURCE_DENIED' | 'STORE_FULL' | 'STORE_FAILED' | 'TIMED_OUT' | 'SHUTTING_DOWN' | 'STALLED' | 'CANCELLED' | 'INTERNAL';
  /** For people, one sentence: what failed, where, and what to do. */
  readonly message: string;
  /** The layer that failed, counted from 0, bottom-most first. */
  readonly layerIndex?: number | undefined;
  /** The number of layers of its image. */
  readonly layerCount?: number | undefined;
  /** The digests that are known. Each can be absent. */
  readonly digests: {
    /** The blob, manifest or layer that failed. */
    readonly subject?: string | undefined;
    readonly expected?: string | undefined;
    readonly actual?: string | undefined;
    readonly chainId?: string | undefined;
  };
  /** Whether another attempt can succeed. The queue makes one while attempt < attempts. */
  readonly retryable: boolean;
  /** The attempt that failed, counted from 1. */
  readonly attempt: number;
  /** The attempts that the job has. */
  readonly attempts: number;
  /** The time of the failure. */
  readonly at: string;
}

/** What a parked job waits for. */
export interface WaitingFor {
  /** The layer that another process has locked. */
  readonly chainId: string;
  /** The process that holds the lock; absent if it is not known. */
  readonly holder?: {
    readonly pid: number;
    readonly host: string;
    readonly worker?: string | undefined;
    readonly job?: string | undefined;
    readonly since: string;
  } | undefined;
  /**
   * The start of the attempt in milliseconds since 1970. Time in which the job was due but no worker took it does not
   * count.
   */
  readonly started: number;
  /** When the job was first parked, in milliseconds since 1970. */
  readonly since: number;
  /** The latest time of the next run, in milliseconds since 1970. */
  readonly until: number;
  /** How often the job was parked. */
  readonly times: number;
  /** The place of the job among parked jobs. */
  readonly place: number;
}

/** A layer that an attempt applied before its job was given back. */
export interface AppliedLayer {
  readonly chainId: string;
  readonly uncompressedBytes: number;
  readonly entries: number;
  readonly timings?: {
    readonly fetchMs: number;
    readonly decompressMs: number;
    readonly writeMs: number;
    readonly totalMs: number;
  } | undefined;
}

/** What a running worker tells about itself, version 1. */
export interface WorkerRecord {
  readonly version: 1;
  /** UNPACK_WORKER_NAME. */
  readonly name: string;
  readonly host: string;
  readonly pid: number;
  /** The version of unpackd. */
  readonly program?: string | undefined;
  /** When the worker started, in milliseconds since 1970. */
  readonly started: number;
  /** `faulty`: the store cannot be written, so the worker takes no jobs. `closing`: it shuts down. */
  readonly state: 'ready' | 'faulty' | 'closing';
  /** Why the store cannot be written, in one sentence. */
  readonly problem?: string | undefined;
  readonly store: {
    /** Workers with the same identity share one store. Absent if it is not known. */
    readonly identity?: string | undefined;
    /** The folder of the store. */
    readonly root: string;
    /** How its snapshots are kept: `overlay` or `native`. */
    readonly snapshotter: string;
    readonly containerd?: {
      readonly namespace: string;
      readonly snapshotter: string;
    } | undefined;
  };
  /** Space of the disk with the store. Inodes are absent on file systems without a fixed number of them. */
  readonly disk?: {
    readonly bytes: number;
    readonly totalBytes: number;
    readonly inodes?: number | undefined;
    readonly totalInodes?: number | undefined;
  } | undefined;
  /** UNPACK_JOBS. */
  readonly slots: number;
  /** UNPACK_LOCK in milliseconds. */
  readonly lock: number;
  /** The number of running jobs. */
  readonly running: number;
  /** The running jobs that started first, at most 32. */
  readonly jobs: readonly {
    readonly id: string;
    readonly image?: string | undefined;
    readonly phase: 'resolving' | 'unpacking';
    /** When this worker took the job, in milliseconds since 1970. */
    readonly since: number;
  }[];
}

/** The progress of a job, version 1. Workers write it while the job runs, and when it ends. */
export interface Progress {
  readonly version: 1;
  /** `resolving` until the layers are known. */
  readonly phase: 'resolving' | 'unpacking' | 'completed' | 'failed';
  /** The attempt that wrote this, counted from 1. */
  readonly attempt: number;
  /** The attempts that the job has. */
  readonly attempts: number;
  /** The name of the worker (UNPACK_WORKER_NAME). */
  readonly worker: string;
  /** For how many milliseconds the worker locks the job (UNPACK_LOCK). It renews the lock after half this time. */
  readonly lock?: number | undefined;
  /** The number of layers that are in the store. */
  readonly layersDone: number;
  readonly layersTotal: number;
  /** The number of bytes of blobs that this attempt has fetched. */
  readonly bytesFetched: number;
  /** The number of bytes that this attempt must fetch for the missing layers. */
  readonly bytesTotal: number;
  /** The number of bytes of tars that this attempt has unpacked. */
  readonly bytesUnpacked: number;
  /** One image for each platform; empty until the layers are known. */
  readonly images: readonly {
    readonly platform?: string | undefined;
    readonly manifestDigest?: string | undefined;
    /** Absent for an image without layers. */
    readonly chainId?: string | undefined;
    /** The layers, bottom-most first. */
    readonly layers: readonly {
      /** The name of the snapshot that the layer becomes. */
      readonly chainId: string;
      readonly phase: 'queued' | 'waiting' | 'applying' | 'committing' | 'applied' | 'existed';
      /**
       * What is done for a layer that is `queued` or `applying`. `fetching`: bytes of the blob arrive and are
       * written. `writing`: all bytes have arrived. `below`: the layer waits for the layer below.
       */
      readonly step?: 'fetching' | 'writing' | 'below' | undefined;
      /** The size of the blob in bytes. */
      readonly size: number;
      /** The number of bytes of the blob that were fetched. */
      readonly fetched: number;
      /** The number of bytes of the tar that were unpacked. */
      readonly unpacked: number;
    }[];
  }[];
  /** The failure of the last attempt; absent during the first attempt and after success. */
  readonly failure?: Failure | undefined;
  /** The last twenty failed attempts, oldest first. */
  readonly failures: readonly Failure[];
  /** The number of stalls before the last STALLED failure. After a retry by hand only later stalls count. */
  readonly stallsBefore: number;
  /** Present while the job is parked because another process has locked a layer. */
  readonly waiting?: WaitingFor | undefined;
  /**
   * How often the job was given back, without counting an attempt, because the store of its worker could not be
   * written.
   */
  readonly storeFaults?: number | undefined;
  /** The layers that this attempt applied before the job was given back. They count as applied in the result. */
  readonly applied?: readonly AppliedLayer[] | undefined;
}
