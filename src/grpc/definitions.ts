import { join } from 'node:path';
import { loadSync, type ServiceDefinition } from '@grpc/proto-loader';

/** The loader of service definitions from .proto files. The client and the servers use it. */

/**
 * The folder of this project's .proto files. A bundled program is in `dist/src/cli`, and this source file in `src/grpc`: two
 * levels below the folder that contains `src/grpc/protos` both.
 */
export const PROTOS: string = join(import.meta.dirname, '../../src/grpc/protos');

/**
 * Reads a service's definition. Both ends encode and decode messages in the same way: names in camelCase, numbers for
 * 64-bit integers, names for the values of an enum, Buffers for bytes, and the zero value for an absent field.
 * @param file in `PROTOS`, or an absolute path
 * @param service the full name, such as `containerd.services.snapshots.v1.Snapshots`
 * @throws Error if the file is missing or has no such service
 */
export function loadService(file: string, service: string): ServiceDefinition {
  const definitions = loadSync(file, { includeDirs: [PROTOS], longs: Number, enums: String, defaults: true });
  const found = definitions[service];
  if (found === undefined || 'format' in found) throw new Error(`${file} describes no service ${service}`);
  return found as ServiceDefinition;
}
