/**
 * The messages of containerd's services as `protos/` describes them, with names in camelCase, and an interface with the
 * signatures of each service's methods. `client.ts` makes clients of these interfaces, a server implements them. A field
 * that a request may leave out has its zero value for the server. Messages that a response leaves out are `null`.
 */

/** The sum of a key's and a value's bytes may be 4096 at most. */
export type Labels = Readonly<Record<string, string>>;

/** The type of containerd's empty messages. */
export type Empty = Readonly<Record<never, never>>;

export interface Timestamp {
  /** Since 1970. */
  readonly seconds: number;
  readonly nanos: number;
}

export interface FieldMask {
  /** Such as `labels` or `labels.KEY`. */
  readonly paths: readonly string[];
}

export interface WireMount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

export interface WireDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly annotations?: Labels;
}

export type WireKind = 'UNKNOWN' | 'VIEW' | 'ACTIVE' | 'COMMITTED';

export interface WireSnapshot {
  readonly name: string;
  readonly parent: string;
  readonly kind: WireKind;
  readonly createdAt: Timestamp | null;
  readonly updatedAt: Timestamp | null;
  readonly labels: Labels;
}

/** The snapshot `key` of a snapshotter. A proxy snapshotter, which is the only one on its socket, ignores `snapshotter`. */
export interface SnapshotKey {
  readonly snapshotter: string;
  readonly key: string;
}

export interface NewSnapshot extends SnapshotKey {
  readonly parent?: string;
  readonly labels?: Labels;
}

/** containerd.services.snapshots.v1.Snapshots */
export interface Snapshots {
  Prepare(request: NewSnapshot): { readonly mounts: readonly WireMount[] };
  View(request: NewSnapshot): { readonly mounts: readonly WireMount[] };
  Mounts(request: SnapshotKey): { readonly mounts: readonly WireMount[] };
  /** `parent` is ignored by a snapshotter without the capability `rebase`. */
  Commit(request: SnapshotKey & { readonly name: string; readonly parent?: string; readonly labels?: Labels }): Empty;
  Remove(request: SnapshotKey): Empty;
  Stat(request: SnapshotKey): { readonly info: WireSnapshot | null };
  Update(request: {
    readonly snapshotter: string;
    readonly info: Partial<WireSnapshot> | null;
    readonly updateMask?: FieldMask | null;
  }): { readonly info: WireSnapshot | null };
  List(request: { readonly snapshotter: string; readonly filters?: readonly string[] }): AsyncIterable<{
    readonly info: readonly WireSnapshot[];
  }>;
  Usage(request: SnapshotKey): { readonly size: number; readonly inodes: number };
  Cleanup(request: { readonly snapshotter: string }): Empty;
}

export interface WireLease {
  readonly id: string;
  readonly createdAt: Timestamp | null;
  readonly labels: Labels;
}

export interface Resource {
  /** A digest, or the key of a snapshot. */
  readonly id: string;
  /** `content`, or `snapshots/SNAPSHOTTER`. */
  readonly type: string;
}

/** containerd.services.leases.v1.Leases */
export interface Leases {
  Create(request: { readonly id: string; readonly labels?: Labels }): { readonly lease: WireLease | null };
  /** With `sync` it waits for a garbage collection, also for one of others. */
  Delete(request: { readonly id: string; readonly sync?: boolean }): Empty;
  List(request: { readonly filters?: readonly string[] }): { readonly leases: readonly WireLease[] };
  AddResource(request: { readonly id: string; readonly resource: Resource | null }): Empty;
  DeleteResource(request: { readonly id: string; readonly resource: Resource | null }): Empty;
  ListResources(request: { readonly id: string }): { readonly resources: readonly Resource[] };
}

export interface WireContent {
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly createdAt: Timestamp | null;
  readonly updatedAt: Timestamp | null;
  readonly labels: Labels;
}

export interface ContentWrite {
  readonly action: 'STAT' | 'WRITE' | 'COMMIT';
  /** The name of the unfinished blob. */
  readonly ref: string;
  readonly total?: number;
  /** The digest. */
  readonly expected?: string;
  readonly offset?: number;
  /** 16 MiB at most, with the rest of the message. */
  readonly data?: Uint8Array;
  readonly labels?: Labels;
}

/** containerd.services.content.v1.Content */
export interface Content {
  Info(request: { readonly digest: string }): { readonly info: WireContent | null };
  Update(request: { readonly info: Partial<WireContent> | null; readonly updateMask?: FieldMask | null }): {
    readonly info: WireContent | null;
  };
  List(request: { readonly filters?: readonly string[] }): AsyncIterable<{ readonly info: readonly WireContent[] }>;
  Delete(request: { readonly digest: string }): Empty;
  Read(request: { readonly digest: string; readonly offset?: number; readonly size?: number }): AsyncIterable<{
    readonly offset: number;
    readonly data: Buffer;
  }>;
  /** The last response has the digest. */
  Write(requests: readonly ContentWrite[]): AsyncIterable<{
    readonly action: ContentWrite['action'];
    readonly offset: number;
    readonly total: number;
    readonly digest: string;
  }>;
  Abort(request: { readonly ref: string }): Empty;
}

export interface WireImage {
  readonly name: string;
  readonly labels: Labels;
  readonly target: WireDescriptor | null;
  readonly createdAt: Timestamp | null;
  readonly updatedAt: Timestamp | null;
}

/** containerd.services.images.v1.Images */
export interface Images {
  Get(request: { readonly name: string }): { readonly image: WireImage | null };
  List(request: { readonly filters?: readonly string[] }): { readonly images: readonly WireImage[] };
  Create(request: { readonly image: Partial<WireImage> | null }): { readonly image: WireImage | null };
  Update(request: { readonly image: Partial<WireImage> | null; readonly updateMask?: FieldMask | null }): {
    readonly image: WireImage | null;
  };
  /** With `sync` it waits for a garbage collection. */
  Delete(request: { readonly name: string; readonly sync?: boolean }): Empty;
}

export interface Plugin {
  /** Such as `io.containerd.snapshotter.v1`. */
  readonly type: string;
  readonly id: string;
  /** `root` of a snapshotter is its directory. */
  readonly exports: Labels;
  readonly capabilities: readonly string[];
  /** Why the plugin does not run. */
  readonly initErr: { readonly code: number; readonly message: string } | null;
}

/** containerd.services.introspection.v1.Introspection */
export interface Introspection {
  Plugins(request: { readonly filters?: readonly string[] }): { readonly plugins: readonly Plugin[] };
  Server(request: Empty): { readonly uuid: string };
}

export interface WireNamespace {
  readonly name: string;
  readonly labels: Labels;
}

/** containerd.services.namespaces.v1.Namespaces */
export interface Namespaces {
  Get(request: { readonly name: string }): { readonly namespace: WireNamespace | null };
  List(request: { readonly filter?: string }): { readonly namespaces: readonly WireNamespace[] };
  Create(request: { readonly namespace: Partial<WireNamespace> | null }): { readonly namespace: WireNamespace | null };
}

/** containerd.services.version.v1.Version */
export interface Version {
  Version(request: Empty): { readonly version: string; readonly revision: string };
}
