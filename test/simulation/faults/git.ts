/**
 * What people do to the repository that the operator follows, and what becomes of it; each then does something about it, or nothing
 * (git-people.ts).
 */
import { pick } from '../chance.ts';
import { flaws } from '../git-drafts.ts';
import type { FaultFamily, FaultKind } from './family.ts';

const family = 'git';

export const isOfGit = (kind: string): boolean => kind.startsWith(`${family}.`);

const spoiling = flaws.map(
  (flaw): FaultKind => ({
    name: `${family}.bad${flaw}`,
    weight: 1,
    strike: (world) => world.git?.spoil(flaw) ?? false,
  }),
);

export const gitFaults: FaultFamily = {
  name: family,
  kinds: [
    ...spoiling,
    { name: 'git.movedBadly', weight: 1, strike: (world) => world.git?.moveBadly() ?? false },
    { name: 'git.copied', weight: 1, strike: (world) => world.git?.copy() ?? false },
    { name: 'git.emptied', weight: 1, strike: (world) => world.git?.prune(true) ?? false },
    { name: 'git.pruned', weight: 1, strike: (world) => world.git?.prune(false) ?? false },
    { name: 'git.rewound', weight: 1, strike: (world) => world.git?.rewind() ?? false },
    { name: 'git.startedOver', weight: 0.5, strike: (world) => world.git?.startOver() ?? false },
    {
      name: 'git.unreachable',
      weight: 1,
      strike: (world, random) => {
        world.git?.hide(pick(random, ['Unreachable', 'Unreachable', 'NoBranch'] as const));
        return world.git !== undefined;
      },
    },
    { name: 'git.editedMeanwhile', weight: 2, strike: (world) => world.git?.edit() ?? false },
    { name: 'git.deletedMeanwhile', weight: 1, strike: (world) => world.git?.delete() ?? false },
  ],
};
