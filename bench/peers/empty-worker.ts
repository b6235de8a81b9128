import { Worker } from 'bullmq';
import { loadConfig } from '../../src/config.ts';
import { patientConnection } from '../../src/queue/connection.ts';
import type { UnpackResult } from '../../src/queue/result.ts';
import { bullWorkerOptions } from '../../src/queue/worker-options.ts';

/**
 * What BullMQ alone does with our jobs: a worker with the settings of ours, by the same code, whose processor returns a
 * result like ours at once. It is told in the environment what to do, as our own worker is; BENCH_RESULT is the result.
 */
const config = loadConfig();
const result: UnpackResult = JSON.parse(process.env.BENCH_RESULT ?? '');
const options = bullWorkerOptions(config, patientConnection(config));
const worker = new Worker(config.UNPACK_QUEUE, async () => result, options);
worker.on('error', () => {});
process.on('SIGTERM', () => process.exit(0));
await worker.run();
