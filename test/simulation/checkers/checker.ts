/**
 * What a checker of one rule is: told of everything in the order in which it happened, before the truth takes it in.
 */
import type { RoomEvent } from '../../../agent/drivers/simulated/store.ts';
import type { Row } from '../../../agent/row.ts';
import type { Instruction } from '../../../controller/api/protocol.generated.ts';
import type { DriverAct } from '../driver-tap.ts';
import type { SyncWrite } from '../git-sync.ts';
import type { MachineTruth } from '../machine-truth.ts';
import type { ApiWrite, Truth } from '../truth.ts';

export interface Violation {
  /** Of design.md section 5; 0: an error that no rule names. */
  readonly rule: number;
  readonly message: string;
  /** Milliseconds since the start of the run. */
  readonly atMs: number;
}

export type Report = (rule: number, message: string) => void;

export interface Checker {
  readonly rule: number;
  /** Something happened to a machine. */
  readonly machine?: (event: RoomEvent, machine: MachineTruth, truth: Truth) => void;
  /** An agent accepted an instruction. */
  readonly accepted?: (instruction: Instruction, term: number, machine: MachineTruth, truth: Truth) => void;
  /** An agent asked its drivers for something. */
  readonly acted?: (act: DriverAct, machine: MachineTruth, truth: Truth) => void;
  /** An agent wrote a row of its log. */
  readonly logged?: (row: Row, machine: MachineTruth, truth: Truth) => void;
  /** An object of ours was stored, by whomever. */
  readonly written?: (write: ApiWrite, truth: Truth) => void;
  /** The sync of the repository created, changed or deleted an object. */
  readonly synced?: (write: SyncWrite, truth: Truth) => void;
  /** The sync of the repository says something else of itself. */
  readonly told?: (status: Readonly<Record<string, string>>, truth: Truth) => void;
  /** The storm is over and everything has had its time. */
  readonly atRest?: (truth: Truth) => void;
}
