import type { Config } from './config.ts';
import { ConfigError } from './errors.ts';
import { type Proxies, ProxySettingError, proxiesOf } from './http/proxy.ts';
import { addSecret } from './secrets.ts';
import type { S3Connection } from './source/source-spec.ts';

/** The connections to S3 that the settings, the proxies of the environment and the shared config files of AWS name. */

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The S3 settings of this process, for a source.
 * @throws ConfigError for a proxy that cannot be used
 */
export function s3Connection(config: Config, env: Environment = process.env): S3Connection {
  const proxies = checkedProxies(env);
  return {
    ...(config.S3_ENDPOINT === undefined ? {} : { endpoint: config.S3_ENDPOINT }),
    region: config.AWS_REGION ?? config.AWS_DEFAULT_REGION ?? 'us-east-1',
    forcePathStyle: config.S3_FORCE_PATH_STYLE ?? config.S3_ENDPOINT !== undefined,
    connectTimeout: config.UNPACK_S3_CONNECT_TIMEOUT,
    idleTimeout: config.UNPACK_S3_IDLE_TIMEOUT,
    maxResumes: config.UNPACK_S3_RESUMES,
    minimumSpeed: { bytesPerSecond: config.UNPACK_S3_MIN_SPEED, over: config.UNPACK_S3_MIN_SPEED_TIME },
    ...(config.AWS_CA_BUNDLE === undefined ? {} : { caBundle: config.AWS_CA_BUNDLE }),
    ...(proxies === undefined ? {} : { proxies }),
  };
}

function checkedProxies(env: Environment): Proxies | undefined {
  try {
    const proxies = proxiesOf(env);
    for (const { authorization } of [proxies?.https, proxies?.http].filter((proxy) => proxy !== undefined)) {
      const encoded = authorization?.replace(/^Basic /, '');
      addSecret(encoded);
      addSecret(
        encoded === undefined
          ? undefined
          : Buffer.from(encoded, 'base64')
              .toString()
              .replace(/^[^:]*:/, ''),
      );
    }
    return proxies;
  } catch (error) {
    throw error instanceof ProxySettingError ? new ConfigError(error.message) : error;
  }
}
