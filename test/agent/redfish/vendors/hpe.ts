/**
 * HPE iLO 5.
 *
 * Sources:
 * - github.com/ironcore-dev/metal-operator/pull/998: BootSourceOverrideEnabled is refused while the target is None.
 * - github.com/ansible-collections/community.general/issues/3509: BootSourceOverrideMode cannot be written.
 * - github.com/goldyfruit/ansible-ilo/issues/1: a reset of a machine that is off is answered with 400 and
 *   InvalidOperationForSystemState; resources carry weak ETags.
 */
import { type Answer, type Json, refused, VendorBmc } from './vendor-bmc.ts';

export class Ilo5 extends VendorBmc {
  readonly systemId = '1';
  readonly maker: Json = { Manufacturer: 'HPE', Model: 'ProLiant DL360 Gen10' };
  override readonly root: Json = { Vendor: 'HPE', Product: 'ProLiant DL360 Gen10', Oem: { Hpe: {} } };
  override readonly resetTypes = [
    'On',
    'ForceOff',
    'GracefulShutdown',
    'ForceRestart',
    'Nmi',
    'PushPowerButton',
    'GracefulRestart',
  ];

  override etag(path: string): string | undefined {
    return path === this.systemPath ? `W/"${this.boot.enabled}${this.boot.target}${this.power}"` : undefined;
  }

  override patchBoot(path: string, boot: Json, ifMatch: string | undefined): Answer {
    if (ifMatch !== undefined && ifMatch !== this.etag(path))
      return refused(412, 'iLO.2.14.ResourceChanged', 'changed');
    if ('BootSourceOverrideMode' in boot) {
      return refused(400, 'iLO.2.14.PropertyNotWritableOrUnknown', 'BootSourceOverrideMode');
    }
    const target = boot.BootSourceOverrideTarget ?? this.boot.target;
    if ('BootSourceOverrideEnabled' in boot && target === 'None') {
      return refused(400, 'iLO.2.14.UnsupportedOperation', 'the operation is not supported while the target is None');
    }
    this.take(boot);
    return { status: 200, body: { error: { '@Message.ExtendedInfo': [{ MessageId: 'Base.1.4.Success' }] } } };
  }

  protected override refusesReset(type: string): Answer | undefined {
    const wrong = type === 'On' ? this.power === 'On' : this.power === 'Off' && type !== 'PushPowerButton';
    return wrong
      ? refused(400, 'iLO.2.14.InvalidOperationForSystemState', `Power is ${this.power === 'On' ? 'on' : 'off'}`)
      : undefined;
  }
}
