import type { HttpProxy, Proxies } from '../http/proxy.ts';
import type { MinimumSpeed } from '../http/timeouts.ts';
import type { CaBundle } from '../http/trusted-cas.ts';
import type { S3Request } from './s3-errors.ts';
import type { S3SettingNames } from './setting-names.ts';

export type { SignatureRefusal } from './s3-errors.ts';

/** The place of an image's blobs. It is plain data, so it can be sent to another thread. */
export type SourceSpec = S3SourceSpec | OciLayoutSpec;

/** The right to read one blob, for a thread without credentials. */
export type BlobGrant = UrlGrant | FileGrant;

/** A blob in a local file. */
export interface FileGrant {
  readonly kind: 'file';
  readonly name: string;
  readonly path: string;
}

/** A URL with a signature that is valid for some time, and how to read it. Times are in milliseconds. */
export interface SignedUrl {
  readonly url: string;
  /** The object, for messages. */
  readonly request: S3Request;
  readonly connectTimeout: number;
  readonly idleTimeout: number;
  readonly minimumSpeed?: MinimumSpeed | undefined;
  readonly caBundle?: CaBundle | undefined;
  readonly proxy?: HttpProxy | undefined;
}

/** A blob in a bucket, with a URL that is valid for some hours. */
export interface UrlGrant extends SignedUrl {
  readonly kind: 'signed-url';
  /** The source's name, for messages. */
  readonly name: string;
  /** Size of the blob in bytes, from the descriptor. */
  readonly size: number;
  readonly maxResumes: number;
}

/** Blobs in a bucket. */
export interface S3SourceSpec {
  readonly kind: 's3';
  readonly bucket: string;
  /** Leading and final slashes are ignored. `""`: the bucket's root. */
  readonly prefix: string;
  readonly layout: BucketLayout;
  readonly connection: S3Connection;
}

export type BucketLayout =
  | { readonly kind: 'oci' }
  /** The files of the CNCF Distribution registry. `repository` has the tags. */
  | { readonly kind: 'distribution'; readonly repository?: string }
  /** `template` contains `{hex}`, and can also contain `{algorithm}`. */
  | { readonly kind: 'keys'; readonly template: string };

/** The worker's settings for S3, which are never part of a job. Times are in milliseconds. */
export interface S3Connection {
  readonly endpoint?: string;
  readonly region: string;
  readonly forcePathStyle: boolean;
  /** Default: the standard AWS chain. */
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
  /** Where the values of this connection come from, for messages. */
  readonly settings?: S3SettingNames | undefined;
  /** The shared files of AWS. The chain is asked again when one of them has changed. */
  readonly credentialFiles?: readonly string[] | undefined;
  readonly connectTimeout: number;
  /** Time limit for a connection without bytes. */
  readonly idleTimeout: number;
  /** Maximum number of resumes of a download in a row, after a broken connection or a 5xx. */
  readonly maxResumes: number;
  /** A slower connection is treated as broken. */
  readonly minimumSpeed?: MinimumSpeed | undefined;
  readonly caBundle?: CaBundle | undefined;
  /** The profile of the shared config files with the credentials. Default: AWS_PROFILE, or what the chain finds. */
  readonly profile?: string | undefined;
  /** Whether requests agree to be paid for by the requester. */
  readonly requesterPays?: boolean | undefined;
  /** Default: every connection is direct. */
  readonly proxies?: Proxies | undefined;
}

/** A local folder with an OCI image layout (OCI image spec, image-layout.md). */
export interface OciLayoutSpec {
  readonly kind: 'oci-layout';
  /** Absolute path of the folder with `oci-layout` and `index.json`. */
  readonly path: string;
}
