/**
 * Upper bounds of the histograms, in seconds. A job whose image exists takes a millisecond, a layer of some kilobytes ten, a
 * usual layer some seconds, and an image of many gigabytes an hour. So the bounds grow by a factor of two to three.
 */

/** The work on a layer, and its phases: a millisecond to ten minutes. */
export const LAYER_BUCKETS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

/** A whole job: up to the default of UNPACK_JOB_TIMEOUT. */
export const JOB_BUCKETS = [
  0.001, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600,
];

/** The wait for a worker: up to a day. */
export const WAIT_BUCKETS = [0.005, 0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400];
