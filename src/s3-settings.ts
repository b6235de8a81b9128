import type { Config } from './config.ts';
import { ConfigError } from './errors.ts';
import { type Proxies, ProxySettingError, proxiesOf } from './http/proxy.ts';
import { type EndpointEntry, readEndpoints } from './s3-endpoints.ts';
import { readProfile, sharedFiles } from './s3-profile.ts';
import type { BucketEndpoint, S3Connections } from './source/bucket-endpoints.ts';
import type { S3Connection } from './source/source-spec.ts';

/** The connections to S3 that the settings, the proxies of the environment and the shared config files of AWS name. */

const DEFAULT_REGION = 'us-east-1';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The S3 settings of this process for the buckets without an entry in UNPACK_S3_ENDPOINTS. In the order of the AWS CLI: the setting,
 * the variable of AWS, the profile.
 * @throws ConfigError for a proxy or a shared config file that cannot be used
 */
export function s3Connection(config: Config, env: Environment = process.env): S3Connection {
  const proxies = checkedProxies(env);
  const profile = readProfile(env);
  const ignores = env.AWS_IGNORE_CONFIGURED_ENDPOINT_URLS === 'true';
  const variable = ignores ? undefined : env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL;
  const endpoint = config.S3_ENDPOINT ?? (variable || profile.endpoint);
  const caBundle = config.AWS_CA_BUNDLE ?? profile.caBundle;
  return {
    ...(endpoint === undefined ? {} : { endpoint }),
    region: config.AWS_REGION ?? config.AWS_DEFAULT_REGION ?? profile.region ?? DEFAULT_REGION,
    forcePathStyle: config.S3_FORCE_PATH_STYLE ?? endpoint !== undefined,
    credentialFiles: Object.values(sharedFiles(env)),
    connectTimeout: config.UNPACK_S3_CONNECT_TIMEOUT,
    idleTimeout: config.UNPACK_S3_IDLE_TIMEOUT,
    maxResumes: config.UNPACK_S3_RESUMES,
    minimumSpeed: { bytesPerSecond: config.UNPACK_S3_MIN_SPEED, over: config.UNPACK_S3_MIN_SPEED_TIME },
    ...(caBundle === undefined ? {} : { caBundle }),
    ...(proxies === undefined ? {} : { proxies }),
    ...(config.UNPACK_S3_REQUESTER_PAYS ? { requesterPays: true } : {}),
  };
}

/**
 * The connections for all buckets.
 * @throws ConfigError as `s3Connection`, and for a faulty file of UNPACK_S3_ENDPOINTS
 */
export function s3Connections(config: Config, env: Environment = process.env): S3Connections {
  const connection = s3Connection(config, env);
  const file = config.UNPACK_S3_ENDPOINTS;
  if (file === undefined) return { connection };
  return { connection, endpoints: readEndpoints(file).map((entry) => bucketEndpoint(entry, connection, env)) };
}

/** The connection of an entry. It shares time limits, proxies and CAs with the general one, but not its endpoint and region. */
function bucketEndpoint(entry: EndpointEntry, general: S3Connection, env: Environment): BucketEndpoint {
  const { endpoint: _, requesterPays: __, ...shared } = general;
  const own = readProfile(env, entry.profile);
  const endpoint = entry.endpoint ?? (entry.profile === undefined ? undefined : own.endpoint);
  const caBundle = general.caBundle ?? own.caBundle;
  return {
    pattern: entry.bucket,
    connection: {
      ...shared,
      ...(endpoint === undefined ? {} : { endpoint }),
      region: entry.region ?? own.region ?? DEFAULT_REGION,
      forcePathStyle: entry.pathStyle ?? endpoint !== undefined,
      ...(caBundle === undefined ? {} : { caBundle }),
      ...(entry.profile === undefined ? {} : { profile: entry.profile }),
      ...(entry.requesterPays === true ? { requesterPays: true } : {}),
    },
  };
}

function checkedProxies(env: Environment): Proxies | undefined {
  try {
    return proxiesOf(env);
  } catch (error) {
    throw error instanceof ProxySettingError ? new ConfigError(error.message) : error;
  }
}
