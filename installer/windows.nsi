; The installer for Windows, for one account: what installer/install.sh does on Linux. installer/package gives VERSION,
; FILES (what is in the zip) and OUT. Without questions: /S.
Target amd64-unicode
!include LogicLib.nsh
SetCompressor lzma
Name "Imagic Edit ${VERSION}"
OutFile "${OUT}"
RequestExecutionLevel user
; The library looks for the built-in model here.
InstallDir "$APPDATA\imagic-edit"
Page instfiles
UninstPage uninstConfirm
UninstPage instfiles

!define KEY "Software\Microsoft\Windows\CurrentVersion\Uninstall\imagic-edit"
!define KRITA "$APPDATA\krita"

!macro put_program FOLDER
  SetOutPath "${FOLDER}"
  File "${FILES}\imagic_edit.dll"
  ; GIMP looks again at a plug-in whose program is newer than its list; so the program comes last.
  File "${FILES}\imagic-edit.exe"
!macroend

; For a GIMP of this version that was started before.
!macro put_into_gimp GIMP
  ${If} ${FileExists} "$APPDATA\GIMP\${GIMP}\*.*"
    !insertmacro put_program "$APPDATA\GIMP\${GIMP}\plug-ins\imagic-edit"
  ${EndIf}
!macroend

; A folder goes only if nothing else is in it.
!macro remove_from_gimp GIMP
  RMDir /r "$APPDATA\GIMP\${GIMP}\plug-ins\imagic-edit"
  RMDir "$APPDATA\GIMP\${GIMP}\plug-ins"
!macroend

Section "install"
  !insertmacro put_program "$INSTDIR"
  File "${FILES}\LICENSE-MIT"
  File "${FILES}\LICENSE-APACHE"
  File "${FILES}\THIRD-PARTY.txt"
  SetOutPath "$INSTDIR\models"
  File /r "${FILES}\models\*.*"
  !insertmacro put_into_gimp 2.10
  !insertmacro put_into_gimp 3.0
  !insertmacro put_into_gimp 3.2
  ${If} ${FileExists} "${KRITA}\*.*"
    SetOutPath "${KRITA}"
    File /r "${FILES}\krita\*.*"
    !insertmacro put_program "${KRITA}\pykrita\imagic"
    ; What the user has chosen stays.
    ReadINIStr $0 "$LOCALAPPDATA\kritarc" "python" "enable_imagic"
    ${If} $0 == ""
      WriteINIStr "$LOCALAPPDATA\kritarc" "python" "enable_imagic" "true"
    ${EndIf}
  ${EndIf}
  SetOutPath "$INSTDIR"
  WriteUninstaller "$INSTDIR\uninstall.exe"
  WriteRegStr HKCU "${KEY}" "DisplayName" "Imagic Edit"
  WriteRegStr HKCU "${KEY}" "DisplayVersion" "${VERSION}"
  WriteRegStr HKCU "${KEY}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  WriteRegStr HKCU "${KEY}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
  WriteRegDWORD HKCU "${KEY}" "NoModify" 1
SectionEnd

; Removes what the installer made: no model that the user added, no tuned model.
Section "Uninstall"
  !insertmacro remove_from_gimp 2.10
  !insertmacro remove_from_gimp 3.0
  !insertmacro remove_from_gimp 3.2
  RMDir /r "${KRITA}\pykrita\imagic"
  Delete "${KRITA}\pykrita\imagic.desktop"
  Delete "${KRITA}\actions\imagic.action"
  RMDir "${KRITA}\pykrita"
  RMDir "${KRITA}\actions"
  DeleteINIStr "$LOCALAPPDATA\kritarc" "python" "enable_imagic"
  Delete "$INSTDIR\imagic-edit.exe"
  Delete "$INSTDIR\imagic_edit.dll"
  Delete "$INSTDIR\LICENSE-MIT"
  Delete "$INSTDIR\LICENSE-APACHE"
  Delete "$INSTDIR\THIRD-PARTY.txt"
  RMDir /r "$INSTDIR\models\scenes-64"
  RMDir "$INSTDIR\models"
  Delete "$INSTDIR\uninstall.exe"
  RMDir "$INSTDIR"
  DeleteRegKey HKCU "${KEY}"
SectionEnd
