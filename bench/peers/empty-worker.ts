import { Worker } from 'bullmq';
import { loadConfig } from '../../src/config.ts';
import { patientConnection } from '../../src/queue/connection.ts';
import type { UnpackResult } from '../../src/queue/formats.ts';
import { bullWorkerOptions } from '../../src/queue/worker-options.ts';

/**
 * A BullMQ worker whose processor returns a result at once, to measure BullMQ alone. Its settings come from the
 * environment, by the same code as those of the unpackd worker. BENCH_RESULT is the result that it returns.
 */
const config = loadConfig();
const result: UnpackResult = JSON.parse(process.env.BENCH_RESULT ?? '');
const options = bullWorkerOptions(config, patientConnection(config));
const worker = new Worker(config.UNPACK_QUEUE, async () => result, options);
worker.on('error', () => {});
process.on('SIGTERM', () => process.exit(0));
await worker.run();
