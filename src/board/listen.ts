import type { FastifyInstance } from 'fastify';
import { errnoOf } from '../errno.ts';

/** The board, or the health server of a worker or of `unpackd snapshotter`, cannot listen on its address. `message` has the reason, and what to change. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** An address to listen on, and the names of its settings for error messages. */
export interface Address {
  readonly host: string;
  readonly port: number;
  readonly hostSetting: string;
  readonly portSetting: string;
}

/** Starts to listen. @returns the URL @throws ListenError */
export async function listen(app: FastifyInstance, address: Address): Promise<string> {
  const { host, port } = address;
  try {
    return await app.listen({ host, port });
  } catch (error) {
    throw new ListenError(sentence(address, error), { cause: error });
  }
}

function sentence({ host, port, hostSetting, portSetting }: Address, error: unknown): string {
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  switch (errnoOf(error)) {
    case 'EADDRINUSE':
      return `${where} is in use by another process (ss -ltnp shows which): stop that process, or set ${portSetting} to another port`;
    case 'EACCES':
      return `this user has no permission to listen on ${where}: set ${portSetting} to 1024 or more`;
    case 'EADDRNOTAVAIL':
      return `${where} is not an address of this machine: set ${hostSetting} to one that ip addr lists, or to 0.0.0.0 for all`;
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `the host name ${host} has no address: correct ${hostSetting}`;
    default:
      return `cannot listen on ${where}: ${error instanceof Error ? error.message : String(error)}; change ${hostSetting} or ${portSetting}`;
  }
}
