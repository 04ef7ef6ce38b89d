/**
 * AMI MegaRAC (ASRock, Gigabyte, Lenovo's AMD machines).
 *
 * Sources:
 * - github.com/DMTF/Redfish-Tacklebox/issues/144 and 111: boot properties belong to /Systems/Self/SD; at the system itself they are refused
 *   with Ami.1.0.OperationSupportedInFutureStateURI.
 * - github.com/stmcginnis/gofish/issues/171: a PATCH without If-Match is refused with Ami.1.0.PreconditionHeaderMissing.
 * - github.com/ansible-collections/community.general/pull/6434: the weak ETag that the BMC gives is not taken back as it is.
 * - pubs.lenovo.com/tsm/patch_systems_instance_sd: 204 when taken; 503 while the machine boots.
 */
import { type Answer, type Json, refused, VendorBmc } from './vendor-bmc.ts';

export class MegaRac extends VendorBmc {
  readonly systemId = 'Self';
  readonly maker: Json = {
    Manufacturer: 'Lenovo',
    Model: 'ThinkSystem SR655',
    '@Redfish.Settings': { SettingsObject: { '@odata.id': '/redfish/v1/Systems/Self/SD' } },
  };
  override readonly root: Json = { Vendor: 'AMI', Product: 'AMI Redfish Server' };
  readonly future = { enabled: 'Disabled', target: 'None' };
  /** So many requests are still refused because the machine boots. */
  busy = 0;

  override resources(): Record<string, Json> {
    const { enabled, target } = this.future;
    return {
      ...super.resources(),
      '/redfish/v1/Systems/Self/SD': {
        Id: 'SD',
        Boot: { BootSourceOverrideEnabled: enabled, BootSourceOverrideTarget: target, BootSourceOverrideMode: 'UEFI' },
      },
    };
  }

  override etag(): string {
    return `W/"${this.future.enabled}${this.future.target}"`;
  }

  override patchBoot(path: string, boot: Json, ifMatch: string | undefined): Answer {
    if (ifMatch === undefined) {
      return refused(
        428,
        'Ami.1.0.PreconditionHeaderMissing',
        'The request did not provide the required precondition, such as an If-Match or If-None-Match header.',
      );
    }
    if (ifMatch !== '*' && ifMatch !== this.etag().slice(2))
      return refused(412, 'Base.1.5.PreconditionFailed', 'failed');
    if (path === this.systemPath) {
      return refused(
        400,
        'Ami.1.0.OperationSupportedInFutureStateURI',
        'Support of this Operation for Boot Properties is moved to FutureState URI(/redfish/v1/Systems/Self/SD)',
      );
    }
    if (this.busy-- > 0) return refused(503, 'Base.1.5.ServiceTemporarilyUnavailable', 'the machine boots');
    this.future.enabled = String(boot.BootSourceOverrideEnabled ?? this.future.enabled);
    this.future.target = String(boot.BootSourceOverrideTarget ?? this.future.target);
    return { status: 204 };
  }

  protected override start(): void {
    this.boot.enabled = this.future.enabled as typeof this.boot.enabled;
    this.boot.target = this.future.target;
    super.start();
  }
}
