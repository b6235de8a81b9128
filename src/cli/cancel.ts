import { Command } from 'commander';
import { QUEUE_SETTINGS } from '../config.ts';
import type { Cli } from './output.ts';
import { configOf, takesSettings } from './settings.ts';

/** `unpackd cancel`: cancels a job. */
export function cancelCommand({ out }: Cli): Command {
  const command = new Command('cancel')
    .description(
      'Cancels a job that waits or runs. The job fails with CANCELLED. Layers that it has committed stay in the store.',
    )
    .argument('<job>', 'its ID, as enqueue printed it')
    .option('--reason <text>', 'the reason to write into the job’s failure')
    .option('--json', 'print one JSON document')
    .addHelpText('after', '\nExample:\n  unpackd cancel 3f1c… --reason "wrong tag"');
  takesSettings(command, QUEUE_SETTINGS);
  return command.action(async (id: string, { reason }: { readonly reason?: string }) => {
    const config = configOf(command);
    const { UnpackQueue } = await import('../queue/producer.ts');
    const queue = new UnpackQueue(config);
    try {
      const cancelled = await queue.cancel(id, reason);
      out.result({ id, cancelled }, () => [
        cancelled ? `job ${id} will be cancelled` : `job ${id} has already completed or failed`,
      ]);
    } finally {
      await queue.close();
    }
  });
}
