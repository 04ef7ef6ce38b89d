/** All mutants, in the order of the page that is generated from them (docs/safety.md). */
import { agentMistakes } from './mistakes-agent.ts';
import { allocationMistakes } from './mistakes-allocation.ts';
import { gitopsMistakes } from './mistakes-gitops.ts';
import { machineryMistakes } from './mistakes-machinery.ts';
import { nodeMistakes } from './mistakes-node.ts';
import { recordMistakes } from './mistakes-records.ts';
import { refusalMistakes } from './mistakes-refusals.ts';
import { roomMistakes } from './mistakes-room.ts';
import type { Mutant } from './mutant.ts';

export const mutants: readonly Mutant[] = [
  ...agentMistakes,
  ...nodeMistakes,
  ...allocationMistakes,
  ...machineryMistakes,
  ...gitopsMistakes,
  ...roomMistakes,
  ...recordMistakes,
  ...refusalMistakes,
];

/** @throws Error that lists the names where there is none of this name */
export function mutantNamed(name: string): Mutant {
  const found = mutants.find((mutant) => mutant.name === name);
  if (found === undefined) {
    throw new Error(`there is no mutant ${name}; there are: ${mutants.map((mutant) => mutant.name).join(', ')}`);
  }
  return found;
}
