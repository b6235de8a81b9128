import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';

/**
 * Lists the commands that a Redis executes, with their keys, for tests of the cost of a job. INFO commandstats has no keys, so
 * its counts include what BullMQ writes now and then for the whole queue.
 */

export interface RedisCall {
  /** In small letters. */
  readonly name: string;
  readonly args: readonly string[];
  /** Whether a script has called it, not a client. */
  readonly fromScript: boolean;
}

/**
 * Starts to list the commands of all clients and scripts.
 * @returns ends the list and returns it: the commands from this call until then, in their order
 */
export async function listCalls(redis: Redis): Promise<() => Promise<readonly RedisCall[]>> {
  const monitor = await redis.monitor();
  const calls: RedisCall[] = [];
  monitor.on('monitor', (_time: string, [name = '', ...args]: string[], source: string) => {
    calls.push({ name: name.toLowerCase(), args, fromScript: source === 'lua' });
  });
  return async () => {
    // the list arrives in the order of the commands, so everything before the marker is complete
    const marker = randomUUID();
    const isComplete = new Promise<void>((resolve) => {
      monitor.on('monitor', (_time: string, args: string[]) => {
        if (args.at(-1) === marker) resolve();
      });
    });
    await redis.echo(marker);
    await isComplete;
    monitor.disconnect();
    return calls.slice(
      0,
      calls.findIndex(({ args }) => args.at(-1) === marker),
    );
  };
}

/** The keys that the call of a script names. */
export function keysOfScript({ name, args }: RedisCall): readonly string[] {
  return name === 'evalsha' || name === 'eval' ? args.slice(2, 2 + Number(args[1])) : [];
}
