import { containerStartScenario } from './container-start.ts';
import { containerdStoreScenario } from './containerd-store.ts';
import { diskScenarios } from './disk.ts';
import { growthScenario } from './growth.ts';
import { imageListScenario } from './image-list.ts';
import { knownImagesScenario } from './known-images.ts';
import { localScenario } from './local.ts';
import { memoryScenario } from './memory.ts';
import { observedScenarios } from './observed.ts';
import { pullScenario } from './pull.ts';
import { s3Scenarios } from './s3-in-life.ts';
import type { Scenario } from './scenario.ts';
import { shapeScenarios } from './shapes.ts';

/** All scenarios in the order in which they run, the most important ones first. */
export const SCENARIOS: readonly Scenario[] = [
  localScenario('gzip'),
  localScenario('zstd'),
  pullScenario,
  containerdStoreScenario,
  containerStartScenario,
  ...shapeScenarios,
  ...s3Scenarios,
  knownImagesScenario,
  ...observedScenarios,
  imageListScenario,
  ...diskScenarios,
  memoryScenario,
  growthScenario,
];
