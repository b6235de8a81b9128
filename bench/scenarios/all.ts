import { localScenario } from './local.ts';
import type { Scenario } from './scenario.ts';
import { shapeScenarios } from './shapes.ts';

/** In the order in which they run: what matters most comes first. */
export const SCENARIOS: readonly Scenario[] = [localScenario('gzip'), localScenario('zstd'), ...shapeScenarios];
