import type { FastifyInstance } from 'fastify';
import { errnoOf } from '../errno.ts';

/** The address of the board or of a worker's probes cannot be listened on; `message` says why and what to change. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** An address to listen on, and the names of its settings, for a sentence. */
export interface Address {
  readonly host: string;
  readonly port: number;
  readonly hostSetting: string;
  readonly portSetting: string;
}

/** Listens, and gives the URL. @throws ListenError */
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
      return `${where} is in use by another process (ss -ltnp shows which): end that one, or set ${portSetting} to another port`;
    case 'EACCES':
      return `this user may not listen on ${where}: set ${portSetting} to a port from 1024 on`;
    case 'EADDRNOTAVAIL':
      return `${where} is no address of this machine: set ${hostSetting} to one that it has, as ip addr lists them, or to 0.0.0.0 for all`;
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `${host} is the name of no address: correct ${hostSetting}`;
    default:
      return `${where} cannot be listened on: ${error instanceof Error ? error.message : String(error)}; ${hostSetting} and ${portSetting} say where`;
  }
}
