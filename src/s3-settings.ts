import type { Config } from './config.ts';
import { ConfigError } from './errors.ts';
import { type Proxies, ProxySettingError, proxiesOf } from './http/proxy.ts';
import { type EndpointEntry, readEndpoints } from './s3-endpoints.ts';
import { readProfile, type S3Profile, sharedFiles } from './s3-profile.ts';
import { httpUrl } from './setting-kinds.ts';
import type { BucketEndpoint, S3Connections } from './source/bucket-endpoints.ts';
import { USUAL_SETTINGS } from './source/setting-names.ts';
import type { S3Connection } from './source/source-spec.ts';

/** The connections to S3 that the settings, the proxies of the environment and the shared config files of AWS name. */

const DEFAULT_REGION = 'us-east-1';

type Environment = Readonly<Record<string, string | undefined>>;

/** A value with the name of the setting that it comes from. */
interface Setting {
  readonly value: string;
  readonly from: string;
}

/**
 * The S3 settings of this process for the buckets without an entry in UNPACK_S3_ENDPOINTS. In the order of the AWS CLI: the setting,
 * the variable of AWS, the profile.
 * @throws ConfigError for a proxy, an endpoint or a shared config file that cannot be used
 */
export function s3Connection(config: Config, env: Environment = process.env): S3Connection {
  const proxies = checkedProxies(env);
  const profile = readProfile(env);
  const variable = (name: string) => (env.AWS_IGNORE_CONFIGURED_ENDPOINT_URLS === 'true' ? undefined : env[name]);
  const endpoint = checkedEndpoint(
    first(
      [config.S3_ENDPOINT, 'S3_ENDPOINT'],
      [variable('AWS_ENDPOINT_URL_S3'), 'AWS_ENDPOINT_URL_S3'],
      [variable('AWS_ENDPOINT_URL'), 'AWS_ENDPOINT_URL'],
      [profile.endpoint, inProfile(profile, 'endpoint_url')],
    ),
  );
  const region = first(
    [config.AWS_REGION, 'AWS_REGION'],
    [config.AWS_DEFAULT_REGION, 'AWS_DEFAULT_REGION'],
    [profile.region, inProfile(profile, 'region')],
  );
  const caBundle = first([config.AWS_CA_BUNDLE, 'AWS_CA_BUNDLE'], [profile.caBundle, inProfile(profile, 'ca_bundle')]);
  const named = env.AWS_PROFILE || env.AWS_DEFAULT_PROFILE;
  return {
    ...placeOf(endpoint, region, config.S3_FORCE_PATH_STYLE),
    settings: {
      endpoint: endpoint?.from ?? USUAL_SETTINGS.endpoint,
      region: region?.from ?? USUAL_SETTINGS.region,
      pathStyle: USUAL_SETTINGS.pathStyle,
      caBundle: caBundle?.from ?? USUAL_SETTINGS.caBundle,
      credentials: named ? keysOf(profile.name, env) : USUAL_SETTINGS.credentials,
    },
    credentialFiles: Object.values(sharedFiles(env)),
    connectTimeout: config.UNPACK_S3_CONNECT_TIMEOUT,
    idleTimeout: config.UNPACK_S3_IDLE_TIMEOUT,
    maxResumes: config.UNPACK_S3_RESUMES,
    minimumSpeed: { bytesPerSecond: config.UNPACK_S3_MIN_SPEED, over: config.UNPACK_S3_MIN_SPEED_TIME },
    ...(caBundle === undefined ? {} : { caBundle: { path: caBundle.value, setting: caBundle.from } }),
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
  const { endpoint: _, requesterPays: __, caBundle, settings = USUAL_SETTINGS, ...shared } = general;
  const profile = readProfile(env, entry.profile);
  const inEntry = (field: string) => `"${field}" of the entry ${entry.bucket} in UNPACK_S3_ENDPOINTS`;
  const endpoint = checkedEndpoint(
    first(
      [entry.endpoint, inEntry('endpoint')],
      [entry.profile === undefined ? undefined : profile.endpoint, inProfile(profile, 'endpoint_url')],
    ),
  );
  const region = first([entry.region, inEntry('region')], [profile.region, inProfile(profile, 'region')]);
  const ownCas = first([profile.caBundle, inProfile(profile, 'ca_bundle')]);
  const cas = caBundle ?? (ownCas && { path: ownCas.value, setting: ownCas.from });
  return {
    pattern: entry.bucket,
    connection: {
      ...shared,
      ...placeOf(endpoint, region, entry.pathStyle),
      settings: {
        endpoint: endpoint?.from ?? inEntry('endpoint'),
        region: region?.from ?? inEntry('region'),
        pathStyle: inEntry('pathStyle'),
        caBundle: cas?.setting ?? settings.caBundle,
        credentials: entry.profile === undefined ? settings.credentials : keysOf(entry.profile, env),
      },
      ...(cas === undefined ? {} : { caBundle: cas }),
      ...(entry.profile === undefined ? {} : { profile: entry.profile }),
      ...(entry.requesterPays === true ? { requesterPays: true } : {}),
    },
  };
}

function placeOf(endpoint: Setting | undefined, region: Setting | undefined, pathStyle: boolean | undefined) {
  return {
    ...(endpoint === undefined ? {} : { endpoint: endpoint.value }),
    region: region?.value ?? DEFAULT_REGION,
    forcePathStyle: pathStyle ?? endpoint !== undefined,
  };
}

/** The first value that is set. An empty one counts as unset. */
function first(...settings: readonly (readonly [string | undefined, string])[]): Setting | undefined {
  for (const [value, from] of settings) if (value) return { value, from };
  return undefined;
}

const inProfile = ({ name, file }: S3Profile, key: string): string => `${key} of the profile ${name} in ${file}`;
const keysOf = (profile: string, env: Environment): string =>
  `the keys of the profile ${profile} in ${sharedFiles(env).credentials}`;

/** Endpoints of variables and files of AWS, which nothing else has checked. */
function checkedEndpoint(endpoint: Setting | undefined): Setting | undefined {
  const checked = httpUrl.safeParse(endpoint?.value);
  if (endpoint === undefined || checked.success) return endpoint;
  throw new ConfigError(`${endpoint.from}: ${checked.error.issues[0]?.message ?? 'write http://host:port'}`);
}

function checkedProxies(env: Environment): Proxies | undefined {
  try {
    return proxiesOf(env);
  } catch (error) {
    throw error instanceof ProxySettingError ? new ConfigError(error.message) : error;
  }
}
